require_relative "billing"
require_relative "fense"

RSpec.describe Billing do
  fense = Fense.new(__FILE__) # this file's own
  before { fense.reset }
  after(:all) { fense.end }
  subject(:billing) { Billing.new(fense.url, fense.key) }

  it "stops billing" do
    expect(billing.stop(1)["suppress_billing"]).to be true
    expect(JSON.parse(fense.requests.first["body"])).to eq("suppress_billing" => true)
  end

  it "retries while Fense is down" do
    fense.fail(status: 503, times: 2)
    billing.stop(1)
    expect(fense.requests.map { |request| request["status"] }).to eq [503, 503, 200]
  end

  it "does not create an account again when the response is lost" do
    fense.fail(path: "/accounts", drop: "reset", after: true)
    account = { api_key: "sk_test_gamma_0003", name: "Gamma", email: "owner@gamma.example" }
    expect { billing.create(account) }.to raise_error(SystemCallError)
    expect(fense.requests.map { |request| request["handled"] }).to eq [201]
  end

  it "stops billing in the background" do
    Thread.new { billing.stop(1) }
    expect(fense.requests("method=POST&path=/accounts/1&wait_ms=2000").size).to eq 1
  end
end
