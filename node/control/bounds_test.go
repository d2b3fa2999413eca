package control

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A node that was taken over cannot exhaust the operator's memory.
func TestAnswersOfNodesAreBounded(t *testing.T) {
	body := `{"alarms":[` + strings.Repeat("{},", 5<<20) + "{}]}"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	defer s.Close()
	c := &Client{http: s.Client(), base: s.URL}
	if _, err := c.Status(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "JSON of more than") {
		t.Errorf("%v", err)
	}
}
