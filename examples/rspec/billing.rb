# The code under test: it stops billing, and tries again when Fense is down for a moment.
require "json"
require "net/http"

class Billing
  def initialize(url, key)
    @url, @key = url, key
  end

  def create(account) = call("/accounts", account)
  def stop(id) = call("/accounts/#{id}", { suppress_billing: true })
  def lookups(id) = call("/accounts/usage/#{id}")["total_lookups"]

  private

  def call(path, body = nil, tries = 3)
    uri = URI(@url + path)
    request = (body ? Net::HTTP::Post : Net::HTTP::Get).new(uri, "x-api-key" => @key)
    request.content_type, request.body = "application/json", body.to_json if body
    response = Net::HTTP.start(uri.host, uri.port) { |http| http.request(request) }
    return call(path, body, tries - 1) if response.code == "503" && tries > 1
    raise "Fense returned #{response.code}" unless response.is_a?(Net::HTTPSuccess)
    JSON.parse(response.body)
  end
end
