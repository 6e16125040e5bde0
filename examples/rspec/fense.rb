# A stand-in of its own for each spec file: `fense = Fense.new` at its head.
require "json"
require "net/http"

class Fense
  STANDIN_URL, API_KEY = ENV.values_at("FENSE_STANDIN_URL", "FENSE_API_KEY") # by `fense-admin exec`

  attr_reader :url, :key

  def initialize
    @made = call("#{STANDIN_URL}/instances", API_KEY, "POST")
    @url, @key = @made.values_at("base_url", "api_key")
  end

  def reset = call("#{@made["standin_url"]}/reset", key, "POST") # to the seed
  def fail(fault) = call("#{@made["standin_url"]}/faults", key, "POST", fault)
  def requests = call("#{@made["standin_url"]}/requests", key, "GET")["requests"]
  def end = call("#{STANDIN_URL}/instances/#{@made["id"]}", API_KEY, "DELETE")

  private

  def call(url, key, method, body = nil)
    headers = { "x-api-key" => key, "Content-Type" => "application/json" }
    uri = URI(url)
    answer = Net::HTTP.start(uri.host, uri.port) do |http|
      http.send_request(method, uri.request_uri, body&.to_json, headers)
    end
    raise "#{method} #{url}: #{answer.code} #{answer.body}" unless answer.is_a?(Net::HTTPSuccess)
    JSON.parse(answer.body) if answer.body && !answer.body.empty?
  end
end
