# The control plane, called by a client that openapi-generator makes of standin/openapi.json.
require "net/http"
require "openapi_client"
include OpenapiClient

def api_with(key)
  configuration = Configuration.new
  configuration.scheme, address = ENV["FENSE_STANDIN_URL"].split("://")
  configuration.host, configuration.base_path = address.split("/", 2)
  configuration.server_index = nil
  configuration.api_key["x-api-key"] = key
  ApiClient.new(configuration)
end

def text(value) = value.nil? ? "null" : value.to_s

def show_state(state)
  state.accounts.each do |account|
    days = account.usage.sort.map { |day, lookups| " #{day}=#{lookups}" }.join
    puts "#{account.fense_account_id} #{account.name} #{text(account.api_key_last4)} " \
         "#{text(account.dispute_account_id)} #{account.created_at.iso8601}#{days}"
  end
end

def show_error
  yield
rescue ApiError => error
  told = ErrorResponse.build_from_hash(JSON.parse(error.response_body, symbolize_names: true)).error
  puts [error.code, told.code, *told.details.map { |it| "#{it.field}: #{it.message}" }].join(" ")
end

api = api_with(ENV["FENSE_API_KEY"])
clock, state, faults = ClockApi.new(api), StateApi.new(api), FaultsApi.new(api)
journal, instances, service = JournalApi.new(api), InstancesApi.new(api), ServiceApi.new(api)

clock.set_clock(ClockSent.new(now: "2026-11-30T23:59:58Z"))
clock.set_clock(ClockSent.new(advance_seconds: 1))
now = clock.get_clock
puts "#{now.now.iso8601} #{now.stopped}"

sent = StateSent.new(accounts: [
  StateAccountSent.new(
    name: "Žluťoučký", email: "owner@beta.example", api_key: "sk_test_client_0002",
    fense_account_id: 4294967296, usage: { "-1" => 2147483648 }
  ),
  StateAccountSent.new(
    name: "Gamma", email: "owner@gamma.example", api_key: "short",
    dispute_account_id: "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
  )
])
state.put_state(sent)
recorded = state.record_usage([
  LookupsSent.new(fense_account_id: 4294967296, date: "2026-11-01", lookups: 1000000000000),
  LookupsSent.new(fense_account_id: 4294967296, date: -1, lookups: 1)
])
puts recorded.recorded
show_state state.get_state

faults.arm_fault(FaultSent.new(
  status: 503, path: "/accounts/*", headers: { "Retry-After" => "7" }, message: "zu spät"
))
faults.arm_fault(FaultSent.new(drop: "reset", delay_ms: 1, times: 1000000000000))
%w[/accounts/1 /accounts/1?x /nowhere].each do |path|
  Net::HTTP.post(URI(ENV["FENSE_BASE_URL"] + path), "{}", { "x-api-key" => ENV["FENSE_API_KEY"] })
rescue SystemCallError, IOError
  nil # dropped
end
faults.get_faults.faults.each do |it|
  puts "#{it.id} #{text(it.status)} #{text(it.drop)} #{it.times > 999999000000} #{it.used > 0}"
end
journal.get_requests.requests.each do |it|
  puts [it.method, it.path, it.query, text(it.status), text(it.body), text(it.response).length > 4,
        !it.duration_ms.nil?, text(it.fault), Time.now - it.at < 60, !it.headers.empty?].join(" ")
end

made = instances.create_instance(instance_sent: InstanceSent.new(seed: "demo"))
instances.create_instance(instance_sent: InstanceSent.new(seed: sent))
instances.end_instance(made.id)
puts "#{made.id.length} #{!made.api_key.empty?} #{instances.get_instances.instances.length}"

show_error { faults.arm_fault(FaultSent.new) }
show_error { state.record_usage([LookupsSent.new(fense_account_id: 9, lookups: 1)]) }
show_error { StateApi.new(api_with(nil)).get_state }
puts service.get_control_openapi.openapi
faults.disarm_faults
journal.forget_requests
clock.release_clock
state.reset
puts state.get_state.accounts.length
