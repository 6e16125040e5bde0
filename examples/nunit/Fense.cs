// A stand-in for each test class: copy this file, and run  fense-admin exec -- dotnet test
// It needs NUnit and Newtonsoft.Json. For parallel classes, add [assembly: Parallelizable(ParallelScope.Fixtures)]
// Here, with Debian's Mono: fense-admin exec --seed examples/seed.json -- examples/nunit/run.sh
using System;
using System.Net.Http;
using System.Text;
using Newtonsoft.Json.Linq;

public sealed class Fense : IDisposable
{
    static readonly string Instances = Environment.GetEnvironmentVariable("FENSE_STANDIN_URL") + "/instances";
    static readonly string MasterKey = Environment.GetEnvironmentVariable("FENSE_API_KEY");
    static readonly HttpClient http = new HttpClient();
    readonly JToken made;

    public Fense(string name)
    {
        made = Call("POST", Instances, MasterKey, $"{{\"name\": \"{name}\"}}");
    }

    public string Url => (string)made["base_url"];
    public string Key => (string)made["api_key"];

    public void Reset() => Call("POST", made["standin_url"] + "/reset", Key); // to the seed

    public void Fail(string fault) => Call("POST", made["standin_url"] + "/faults", Key, fault);

    // What was sent; with wait_ms in the query, as soon as it has been sent.
    public JArray Requests(string query = "") =>
        (JArray)Call("GET", made["standin_url"] + "/requests?" + query, Key)["requests"];

    public void Dispose() => Call("DELETE", Instances + "/" + made["id"], MasterKey);

    static JToken Call(string method, string url, string key, string body = null)
    {
        var request = new HttpRequestMessage(new HttpMethod(method), url);
        request.Headers.Add("x-api-key", key);
        if (body != null)
            request.Content = new StringContent(body, Encoding.UTF8, "application/json");
        using (var response = http.SendAsync(request).Result)
        {
            var text = response.Content.ReadAsStringAsync().Result;
            if (!response.IsSuccessStatusCode)
                throw new HttpRequestException($"{method} {url}: {response.StatusCode} {text}");
            return text == "" ? null : JToken.Parse(text);
        }
    }
}
