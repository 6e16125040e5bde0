using System;
using System.Linq;
using System.Net.Http;
using System.Threading.Tasks;
using Newtonsoft.Json.Linq;
using NUnit.Framework;

[TestFixture]
public sealed class BillingTest : IDisposable
{
    readonly Fense fense = new Fense("BillingTest.cs"); // this file's own
    readonly Billing billing;

    public BillingTest()
    {
        billing = new Billing(fense.Url, fense.Key);
    }

    public void Dispose() => fense.Dispose();

    [SetUp]
    public void Reset() => fense.Reset();

    [Test]
    public async Task BillingIsStopped()
    {
        Assert.That((bool)(await billing.Stop(1))["suppress_billing"]);
        var sent = JObject.Parse((string)fense.Requests()[0]["body"]);
        Assert.That((bool)sent["suppress_billing"]);
    }

    [Test]
    public async Task RetriesWhileFenseIsDown()
    {
        fense.Fail("{\"status\": 503, \"times\": 2}");
        await billing.Stop(1);
        var statuses = fense.Requests().Select(request => (int)request["status"]);
        Assert.That(statuses, Is.EqualTo(new[] { 503, 503, 200 }));
    }

    [Test]
    public void AnAccountIsNotCreatedAgainWhenTheResponseIsLost()
    {
        fense.Fail("{\"path\": \"/accounts\", \"drop\": \"reset\", \"after\": true}");
        Assert.That(
            async () => await billing.Create("sk_test_gamma_0003", "Gamma", "owner@gamma.example"),
            Throws.InstanceOf<HttpRequestException>());
        var handled = fense.Requests().Select(request => (int?)request["handled"]);
        Assert.That(handled, Is.EqualTo(new[] { 201 }));
    }

    [Test]
    public async Task BillingIsStoppedInTheBackground()
    {
        var stopping = Task.Run(() => billing.Stop(1));
        Assert.That(fense.Requests("method=POST&path=/accounts/1&wait_ms=2000"), Has.Count.EqualTo(1));
        await stopping;
    }
}
