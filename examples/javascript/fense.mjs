// A stand-in of its own for each test file, for any test runner: see the two folders beside this.
const { FENSE_STANDIN_URL, FENSE_API_KEY } = process.env; // set by `fense-admin exec`

export async function startFense() {
  const made = await call(`${FENSE_STANDIN_URL}/instances`, FENSE_API_KEY, "POST");
  const own = (path, method, body) => call(`${made.standin_url}${path}`, made.api_key, method, body);
  return {
    url: made.base_url,
    key: made.api_key,
    reset: () => own("/reset", "POST"), // to the seed
    fail: (fault) => own("/faults", "POST", fault),
    requests: async () => (await own("/requests", "GET")).requests,
    end: () => call(`${FENSE_STANDIN_URL}/instances/${made.id}`, FENSE_API_KEY, "DELETE"),
  };
}

async function call(url, key, method, body) {
  const headers = { "x-api-key": key, "Content-Type": "application/json" };
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}
