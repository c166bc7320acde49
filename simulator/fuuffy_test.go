// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

const (
	fuuffyPath    = "/fuuffy/v1/auth/token"
	fuuffyTesting = "/fuuffy/testing/v1/auth/token"
)

// fuuffyError returns an error in the shape of the samples.
func fuuffyError(code, reason, message string) string {
	return `{"error":{"code":"` + code + `","code_reason":"` + reason + `","message":"` + message + `"}}`
}

func fuuffy(t *testing.T, h http.Handler, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, h, "POST", path, body, "Content-Type", formType)
}

func TestFuuffyGrants(t *testing.T) {
	sim := simulator.New()
	look := regexp.MustCompile(`^\{"data":\{"access_token":"sk-[0-9a-f]{32}","token_type":"Bearer","expires_in":3600\}\}$`)
	for _, body := range []string{posted, posted + "&grant_type=client_credentials", posted + "&grant_type=", posted + "&x=1"} {
		for _, path := range []string{fuuffyPath, fuuffyTesting} {
			w := fuuffy(t, sim, path, body)
			if w.Code != http.StatusOK || !look.MatchString(w.Body.String()) {
				t.Errorf("%s %s: %d %s", path, body, w.Code, w.Body)
			}
		}
	}
	control(t, sim, "PUT", "fuuffy/settings", `{"data_as":"string"}`)
	w := fuuffy(t, sim, fuuffyPath, posted)
	data, _ := fromJSON[map[string]any](t, w)["data"].(string)
	if !json.Valid([]byte(data)) || !look.MatchString(`{"data":`+data+`}`) {
		t.Errorf("data as a string: %s", w.Body)
	}
	control(t, sim, "POST", "reset", "")
	if w := fuuffy(t, sim, fuuffyPath, posted); !look.MatchString(w.Body.String()) {
		t.Errorf("after the reset: %s", w.Body)
	}
}

func TestFuuffyEnvironments(t *testing.T) {
	sim := simulator.New()
	production, _ := granted(t, fuuffy(t, sim, fuuffyPath, posted))
	testing, _ := granted(t, fuuffy(t, sim, fuuffyTesting, posted))
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{"/fuuffy/protected", production, 200},
		{"/fuuffy/testing/protected", testing, 200},
		{"/fuuffy/protected", testing, 401},
		{"/fuuffy/testing/protected", production, 401},
	} {
		if w := ask(t, sim, "GET", c.path, "", "Authorization", "Bearer "+c.token); w.Code != c.status {
			t.Errorf("%s: %d, want %d", c.path, w.Code, c.status)
		}
	}
	control(t, sim, "DELETE", "fuuffy/clients/demo-client", "")
	if w := fuuffy(t, sim, fuuffyTesting, posted); w.Code != http.StatusUnauthorized {
		t.Errorf("a removed client in the testing environment: %d, want 401", w.Code)
	}
}

func TestFuuffyRefuses(t *testing.T) {
	wrong := fuuffyError("401021", "invalid_client", "Invalid client_id, client_secret, or session_key")
	invalid := func(message string) string { return fuuffyError("400013", "invalid_request", message) }
	const (
		params  = "Missing or invalid parameters"
		notForm = "the content type must be application/x-www-form-urlencoded"
	)
	sim := simulator.New()
	for _, c := range []struct {
		name, query, contentType, body string
		status                         int
		want                           string
	}{
		{"nothing", "", formType, "", 400, invalid(params)},
		{"no id", "", formType, "client_secret=demo-secret", 400, invalid(params)},
		{"no secret", "", formType, "client_id=demo-client", 400, invalid(params)},
		{"empty secret", "", formType, "client_id=demo-client&client_secret=", 400, invalid(params)},
		{"other grant type", "", formType, posted + "&grant_type=password", 400, invalid(params)},
		{"no content type", "", "", posted, 400, invalid(notForm)},
		{"JSON", "", "application/json", `{"client_id":"demo-client","client_secret":"demo-secret"}`, 400, invalid(notForm)},
		{"form said to be JSON", "", "application/json", posted, 400, invalid(notForm)},
		{"in the query", "?" + posted, formType, "", 400, invalid("parameters must not be sent in the query")},
		{"unknown client", "", formType, "client_id=x&client_secret=demo-secret", 401, wrong},
		{"wrong secret", "", formType, posted + "x", 401, wrong},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			if c.contentType != "" {
				header = []string{"Content-Type", c.contentType}
			}
			wantResponse(t, ask(t, sim, "POST", fuuffyPath+c.query, c.body, header...), c.status, c.want)
		})
	}
	w := ask(t, sim, "POST", fuuffyPath, posted, "Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
	wantResponse(t, w, 400, invalid("credentials must be sent in the body, not in an Authorization header"))
}

// TestFuuffyErrorShapes checks the shapes of the schema that differ from the samples.
func TestFuuffyErrorShapes(t *testing.T) {
	sim := simulator.New()
	const absent = `{"error":"Resource or endpoint not found."}`
	for _, shape := range []string{"nested", "flat"} {
		is := func(code, reason, message string) string {
			e := fuuffyError(code, reason, message)
			if shape == "flat" {
				e = strings.TrimSuffix(strings.TrimPrefix(e, `{"error":`), "}")
			}
			return e
		}
		control(t, sim, "POST", "reset", "")
		control(t, sim, "PUT", "fuuffy/settings", `{"rate_limit":3,"errors_as":"`+shape+`"}`)
		wantResponse(t, fuuffy(t, sim, fuuffyPath, ""), 400,
			fuuffyError("400013", "invalid_request", "Missing or invalid parameters")) // the schema also nests this error
		wantResponse(t, fuuffy(t, sim, fuuffyPath, "client_id=x&client_secret=x"), 401,
			is("401021", "invalid_client", "Invalid client_id, client_secret, or session_key"))
		control(t, sim, "POST", "fuuffy/faults", `{"kind":"vendor_failure"}`)
		wantResponse(t, fuuffy(t, sim, fuuffyPath, ""), 500,
			is("500999", "API_ERROR", "Api Error, please contact customer service"))
		wantResponse(t, fuuffy(t, sim, fuuffyPath, ""), 429, is("429000", "too_many_requests", "Too many requests"))

		control(t, sim, "PUT", "fuuffy/settings", `{"forbidden":true,"errors_as":"`+shape+`"}`)
		wantResponse(t, fuuffy(t, sim, fuuffyPath, posted), 403, `{"error":"Access forbidden for this resource."}`)
		for _, path := range []string{"/fuuffy", "/fuuffy/v1/auth/token/", "/fuuffy/testing/v2/auth/token"} {
			wantResponse(t, fuuffy(t, sim, path, posted), 404, absent)
		}
		wantResponse(t, ask(t, sim, "GET", fuuffyPath, ""), 404, absent)
	}
}

// wantLimit checks the headers that every response has.
func wantLimit(t *testing.T, w *httptest.ResponseRecorder, status, limit, remaining int, reset time.Time) {
	t.Helper()
	if w.Code != status {
		t.Errorf("got %d %s, want %d", w.Code, w.Body, status)
	}
	for name, want := range map[string]int{"Limit": limit, "Remaining": remaining, "Reset": int(reset.Unix())} {
		if got := w.Header().Get("X-RateLimit-" + name); got != strconv.Itoa(want) {
			t.Errorf("X-RateLimit-%s of a %d: %q, want %d", name, w.Code, got, want)
		}
	}
}

func TestFuuffyLimitAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		control(t, sim, "PUT", "fuuffy/clients/other", `{"client_secret":"demo-secret"}`)
		time.Sleep(1500 * time.Millisecond) // windows end on a whole second
		end := time.Now().Truncate(time.Second).Add(time.Minute)
		for i := range 98 {
			wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 100, 99-i, end)
		}
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted+"x"), 401, 100, 1, end) // a refused request counts
		wantLimit(t, fuuffy(t, sim, "/fuuffy/x", posted), 404, 100, 1, end)    // an unknown path does not
		control(t, sim, "POST", "fuuffy/faults", `{"kind":"vendor_failure","times":2}`)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 500, 100, 0, end)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 500, 100, 0, end) // a fault comes before the limit
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 429, 100, 0, end)

		// Another client, an unknown client, and the other environment have
		// separate limits.
		other := strings.Replace(posted, "demo-client", "other", 1)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, other), 200, 100, 99, end)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, "client_id=x&client_secret=x"), 401, 100, 99, end)
		wantLimit(t, fuuffy(t, sim, fuuffyTesting, posted), 200, 100, 99, end)

		time.Sleep(time.Until(end) - time.Nanosecond)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 429, 100, 0, end)
		time.Sleep(time.Nanosecond)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 100, 99, end.Add(time.Minute))
	})
}

func TestFuuffyLimitLowered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		end := time.Now().Add(time.Minute)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 100, 99, end)
		control(t, sim, "PUT", "fuuffy/settings", `{"rate_limit":2}`)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 2, 0, end) // in the current minute
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 429, 2, 0, end)
		control(t, sim, "POST", "reset", "")
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 100, 99, end)
	})
}

func TestFuuffyLimitAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		begin := time.Now()
		for i := range 1000 {
			if i > 0 && i%100 == 0 {
				time.Sleep(time.Minute)
			}
			if w := fuuffy(t, sim, fuuffyPath, posted); w.Code != http.StatusOK {
				t.Fatalf("request %d: %d %s", i, w.Code, w.Body)
			}
		}
		end := begin.Add(time.Hour)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 429, 1000, 0, end) // both limits are reached
		time.Sleep(time.Minute)
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 429, 1000, 0, end)
		time.Sleep(time.Until(end))
		wantLimit(t, fuuffy(t, sim, fuuffyPath, posted), 200, 100, 99, end.Add(time.Minute))
	})
}
