# A stand-in for each spec file: copy this file, and run  fense-admin exec -- rspec
# Here: fense-admin exec --seed examples/seed.json -- sh -c 'ls examples/rspec/*_spec.rb | xargs -n 1 -P 2 rspec'
require "json"
require "net/http"

class Fense
  STANDIN_URL, API_KEY = ENV.values_at("FENSE_STANDIN_URL", "FENSE_API_KEY") # by `fense-admin exec`

  attr_reader :url, :key

  def initialize(file)
    name = { name: File.basename(file) } # for the log, the page, and the report of a failure
    @made = call("#{STANDIN_URL}/instances", API_KEY, "POST", name)
    @url, @key = @made.values_at("base_url", "api_key")
  end

  def reset = call("#{@made["standin_url"]}/reset", key, "POST") # to the seed
  def fail(fault) = call("#{@made["standin_url"]}/faults", key, "POST", fault)
  def end = call("#{STANDIN_URL}/instances/#{@made["id"]}", API_KEY, "DELETE")

  # What was sent; with wait_ms in the query, as soon as it has been sent.
  def requests(query = "")
    call("#{@made["standin_url"]}/requests?#{query}", key, "GET")["requests"]
  end

  private

  def call(url, key, method, body = nil)
    headers = { "x-api-key" => key, "Content-Type" => "application/json" }
    uri = URI(url)
    response = Net::HTTP.start(uri.host, uri.port) do |http|
      http.send_request(method, uri.request_uri, body&.to_json, headers)
    end
    raise "#{method} #{url}: #{response.code} #{response.body}" unless response.is_a?(Net::HTTPSuccess)
    JSON.parse(response.body) if response.body && !response.body.empty?
  end
end
