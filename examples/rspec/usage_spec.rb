require_relative "billing"
require_relative "fense"

RSpec.describe Billing do
  fense = Fense.new(__FILE__)
  before { fense.reset }
  after(:all) { fense.end }
  subject(:billing) { Billing.new(fense.url, fense.key) }

  it "adds up the lookups of an account" do
    expect(billing.lookups(1)).to eq 19
  end

  it "raises where there is no such account" do
    expect { billing.lookups(99) }.to raise_error(/404/)
  end
end
