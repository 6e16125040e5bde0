package billing

import (
	"strings"
	"testing"
)

func TestBillingIsStopped(t *testing.T) {
	fense := startFense(t)
	if err := (Client{fense.URL, fense.Key}).Stop(1); err != nil {
		t.Fatal(err)
	}
	if requests := fense.requests(""); requests[0].Body != `{"suppress_billing":true}` {
		t.Error(requests)
	}
}

func TestRetriesWhileFenseIsDown(t *testing.T) {
	fense := startFense(t)
	fense.fail(`{"status": 503, "times": 2}`)
	if err := (Client{fense.URL, fense.Key}).Stop(1); err != nil {
		t.Fatal(err)
	}
	if requests := fense.requests(""); len(requests) != 3 || requests[2].Status != 200 {
		t.Error(requests)
	}
}

func TestAnAccountIsNotCreatedAgainWhenTheResponseIsLost(t *testing.T) {
	fense := startFense(t)
	fense.fail(`{"path": "/accounts", "drop": "reset", "after": true}`)
	err := Client{fense.URL, fense.Key}.Create("sk_test_gamma_0003", "Gamma", "owner@gamma.example")
	if requests := fense.requests(""); err == nil || len(requests) != 1 || requests[0].Handled != 201 {
		t.Error(err, requests)
	}
}

func TestBillingIsStoppedInTheBackground(t *testing.T) {
	fense := startFense(t)
	go Client{fense.URL, fense.Key}.Stop(1)
	if requests := fense.requests("method=POST&path=/accounts/1&wait_ms=2000"); len(requests) != 1 {
		t.Error("no request within 2 seconds")
	}
}

func TestLookupsAreAddedUp(t *testing.T) {
	fense := startFense(t)
	if lookups, err := (Client{fense.URL, fense.Key}).Lookups(1); lookups != 19 {
		t.Error(lookups, err)
	}
}

func TestAnUnknownAccountIsAnError(t *testing.T) {
	fense := startFense(t)
	if _, err := (Client{fense.URL, fense.Key}).Lookups(99); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
}
