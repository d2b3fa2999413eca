package mirror

import (
	"net/http"
	"strconv"
	"strings"
)

// maxPage bounds a listing without n.
const maxPage = 1000

func (m *Mirror) tags(w http.ResponseWriter, r *http.Request, req request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	some, err := m.Ledger.Tags(r.Context(), req.repository, "", 1)
	if err != nil {
		return err
	}
	if len(some) == 0 {
		return errNotOnLedger
	}
	tags, err := m.Ledger.StandingTags(r.Context(), req.repository, last, n+1)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"name": req.name, "tags": cut(w, r, tags, n)})
	return nil
}

func (m *Mirror) catalog(w http.ResponseWriter, r *http.Request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	host, err := registry(r)
	if err != nil {
		return err
	}
	prefix := host + "/"
	var names []string
	for _, name := range m.Ledger.Repositories() {
		if short, ok := strings.CutPrefix(name, prefix); ok && short > last {
			names = append(names, short)
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"repositories": cut(w, r, names, n)})
	return nil
}

// page reads n and last (OCI distribution-spec, "Content Discovery").
func page(r *http.Request) (n int, last string, err error) {
	q := r.URL.Query()
	n = maxPage
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return 0, "", &refusal{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a number that is not negative"}
		}
	}
	return min(n, maxPage), q.Get("last"), nil
}

// cut keeps n names of a list that may have more, and links to the rest.
func cut(w http.ResponseWriter, r *http.Request, names []string, n int) []string {
	if len(names) > n {
		names = names[:n]
		if n > 0 {
			next := *r.URL
			q := next.Query()
			q.Set("n", strconv.Itoa(n))
			q.Set("last", names[n-1])
			next.RawQuery = q.Encode()
			w.Header().Set("Link", "<"+next.RequestURI()+`>; rel="next"`)
		}
	}
	return append([]string{}, names...) // never null
}
