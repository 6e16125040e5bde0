using System;
using System.Net.Http;
using System.Threading.Tasks;
using NUnit.Framework;

[TestFixture]
public sealed class UsageTest : IDisposable
{
    readonly Fense fense = new Fense("UsageTest.cs");
    readonly Billing billing;

    public UsageTest()
    {
        billing = new Billing(fense.Url, fense.Key);
    }

    public void Dispose() => fense.Dispose();

    [SetUp]
    public void Reset() => fense.Reset();

    [Test]
    public async Task LookupsAreAddedUp()
    {
        Assert.That(await billing.Lookups(1), Is.EqualTo(19));
    }

    [Test]
    public void AnUnknownAccountIsAnError()
    {
        Assert.That(
            async () => await billing.Lookups(99),
            Throws.InstanceOf<HttpRequestException>().With.Message.Contains("404"));
    }
}
