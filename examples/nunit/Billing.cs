using System.Net.Http;
using System.Text;
using System.Threading.Tasks;
using Newtonsoft.Json.Linq;

// The code under test: it stops billing, and tries again when Fense is down for a moment.
public class Billing
{
    readonly HttpClient http = new HttpClient();
    readonly string url;

    public Billing(string url, string key)
    {
        this.url = url;
        http.DefaultRequestHeaders.Add("x-api-key", key);
    }

    public Task<JObject> Create(string apiKey, string name, string email) =>
        Call("/accounts", new JObject { ["api_key"] = apiKey, ["name"] = name, ["email"] = email });

    public Task<JObject> Stop(int id) =>
        Call($"/accounts/{id}", new JObject { ["suppress_billing"] = true });

    public async Task<int> Lookups(int id) =>
        (int)(await Call($"/accounts/usage/{id}"))["total_lookups"];

    async Task<JObject> Call(string path, JObject body = null, int tries = 3)
    {
        var request = new HttpRequestMessage(body == null ? HttpMethod.Get : HttpMethod.Post, url + path);
        if (body != null)
            request.Content = new StringContent(body.ToString(), Encoding.UTF8, "application/json");
        using (var response = await http.SendAsync(request))
        {
            if ((int)response.StatusCode == 503 && tries > 1)
                return await Call(path, body, tries - 1);
            response.EnsureSuccessStatusCode();
            return JObject.Parse(await response.Content.ReadAsStringAsync());
        }
    }
}
