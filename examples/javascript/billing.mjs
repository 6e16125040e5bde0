// The code under test: it stops billing, and tries again when Fense is down for a moment.
export function createBilling(url, key) {
  const headers = { "x-api-key": key, "Content-Type": "application/json" };

  async function call(path, body, tries = 3) {
    const options = body && { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(url + path, { headers, ...options });
    if (response.status === 503 && tries > 1) return call(path, body, tries - 1);
    if (!response.ok) throw new Error(`Fense returned ${response.status}`);
    return response.json();
  }

  return {
    create: (account) => call("/accounts", account),
    stop: (id) => call(`/accounts/${id}`, { suppress_billing: true }),
    lookups: async (id) => (await call(`/accounts/usage/${id}`)).total_lookups,
  };
}
