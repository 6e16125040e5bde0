# The contract, called by a client that openapi-generator makes of openapi.json.
require "openapi_client"
include OpenapiClient

def api_with(key)
  configuration = Configuration.new
  configuration.scheme, configuration.host = ENV["FENSE_BASE_URL"].split("://")
  configuration.server_index = nil
  configuration.api_key["x-api-key"] = key
  ApiClient.new(configuration)
end

def text(value) = value.nil? ? "null" : value.to_s

def show(account)
  puts [account.fense_account_id, account.name, account.email, account.suppress_notifications,
        account.suppress_billing, account.is_active, text(account.api_key_last4),
        text(account.dispute_account_id), account.created_at.iso8601, account.updated_at.iso8601].join(" ")
end

def show_usage(usage)
  days = usage.daily.map { |day| " #{day.date}=#{day.lookups}" }.join
  puts "#{usage.fense_account_id} #{text(usage.start_date)} #{text(usage.end_date)} " \
       "#{text(usage.dispute_account_id)} #{usage.total_lookups}#{days}"
end

def show_error
  yield
rescue ApiError => error
  told = ErrorResponse.build_from_hash(JSON.parse(error.response_body, symbolize_names: true)).error
  puts [error.code, told.code, *told.details.map { |it| "#{it.field}: #{it.message}" }].join(" ")
end

api = api_with(ENV["FENSE_API_KEY"])
accounts, usage, service = AccountsApi.new(api), UsageApi.new(api), ServiceApi.new(api)

show accounts.get_account(1)
show accounts.get_account(4294967296)

body = AccountCreate.new(
  api_key: "sk_test_client_0001", name: "Gamma", email: "owner@gamma.example",
  dispute_account_id: "6F1C2A6E-0C1D-4A55-9A3E-0D6F6F0F7D12"
)
created = accounts.create_account(body)
id = created.fense_account_id
puts "#{id} #{created.name} #{text(created.dispute_account_id)}"
[AccountUpdate.new(name: "Gamma Zürich", is_active: false), AccountUpdate.new(dispute_account_id: nil)].each do |change|
  updated = accounts.update_account(id, change)
  puts "#{updated.name} #{updated.is_active} #{text(updated.dispute_account_id)}"
end

first = Date.new(2026, 11, 1)
show_usage usage.get_account_usage(1)
show_usage usage.get_account_usage(1, start_date: first, end_date: first)
show_usage usage.get_usage(fense_account_id: 4294967296, end_date: Date.new(2026, 11, 30))
all = usage.get_usage
totals = all.accounts.map { |it| " #{it.fense_account_id}=#{it.total_lookups}/#{text(it.dispute_account_id)}" }
puts "#{text(all.start_date)} #{text(all.end_date)} #{all.total_lookups}#{totals.join}"

show_error { accounts.create_account(body) }
show_error { usage.get_usage(start_date: first) }
show_error { AccountsApi.new(api_with("nobody's")).get_account(1) }
show_error { AccountsApi.new(api_with("short-key")).get_account(1) }
show_error { accounts.get_account(9007199254740991) }
document = service.get_openapi
puts "#{service.get_health.status} #{document.openapi} #{document.info[:title]}"
