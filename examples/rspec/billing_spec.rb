require_relative "billing"
require_relative "fense"

RSpec.describe Billing do
  fense = Fense.new # this file's own
  before { fense.reset }
  after(:all) { fense.end }
  subject(:billing) { Billing.new(fense.url, fense.key) }

  it "stops billing" do
    expect(billing.stop(1)["suppress_billing"]).to be true
    expect(JSON.parse(fense.requests.first["body"])).to eq("suppress_billing" => true)
  end

  it "asks a Fense that is down for a moment again" do
    fense.fail(status: 503, times: 2)
    billing.stop(1)
    expect(fense.requests.map { |request| request["status"] }).to eq [503, 503, 200]
  end
end
