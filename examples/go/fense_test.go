// A stand-in for each test: copy this file beside them, and run  fense-admin exec -- go test -count=1 ./...
// Here: fense-admin exec --seed examples/seed.json -- sh -c 'cd examples/go && go test -count=1 ./...'

package billing

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

type fense struct {
	URL     string `json:"base_url"`
	Key     string `json:"api_key"`
	Standin string `json:"standin_url"`
	ID      string
	t       *testing.T
}

type sent struct {
	Method, Path, Body string
	Status, Handled    int // 0 for null
}

// startFense returns a stand-in for this test alone, so that tests can run in parallel.
func startFense(t *testing.T) *fense {
	t.Parallel()
	url, key := os.Getenv("FENSE_STANDIN_URL")+"/instances", os.Getenv("FENSE_API_KEY")
	f := &fense{t: t}
	f.call("POST", url, key, fmt.Sprintf(`{"name": %q}`, t.Name()), f)
	t.Cleanup(func() { f.call("DELETE", url+"/"+f.ID, key, "", nil) })
	return f
}

func (f *fense) fail(fault string) {
	f.call("POST", f.Standin+"/faults", f.Key, fault, nil)
}

// requests returns what was sent; with wait_ms in the query, as soon as it has been sent.
func (f *fense) requests(query string) []sent {
	var found struct{ Requests []sent }
	f.call("GET", f.Standin+"/requests?"+query, f.Key, "", &found)
	return found.Requests
}

func (f *fense) call(method, url, key, body string, result any) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	request.Header.Set("x-api-key", key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 {
		f.t.Fatal(method, url, response.Status)
	}
	if result != nil {
		if err := json.NewDecoder(response.Body).Decode(result); err != nil {
			f.t.Fatal(err)
		}
	}
}
