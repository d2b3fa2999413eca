package controllers_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// rights are what the operators of all tests asked the API server for. They ask
// with the rights of the role alone, so one that is missing shows as a refusal;
// and when all tests have run, an unused one is reported.
type rights struct {
	mu      sync.Mutex // guards what follows
	used    map[string]bool
	refused map[string]string // the last answer
	choice  map[string]bool   // rights that an installation may give in addition
}

var asked = rights{used: map[string]bool{}, refused: map[string]string{}, choice: map[string]bool{}}

// unasked are the rights that no request shows, and why they are needed. Not
// among them is to list what is watched: API servers that stream lists (since
// Kubernetes 1.32) are asked to watch only, older ones for both.
var unasked = map[string]string{
	"pyrsia.io pyrsianodes/finalizers update":       "the admission plugin OwnerReferencesPermissionEnforcement asks for it",
	"pyrsia.io officialimagesets/finalizers update": "the admission plugin OwnerReferencesPermissionEnforcement asks for it",
	"events.k8s.io events patch":                    "an event that is told again within minutes is counted on the first one",
	" events patch":                                 "an event that is told again within minutes is counted on the first one",
}

// wrap notes each request.
func (r *rights) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err != nil {
			return resp, err
		}
		refusal := ""
		if resp.StatusCode == http.StatusForbidden {
			body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			if err != nil {
				return nil, err
			}
			resp.Body = io.NopCloser(bytes.NewReader(body))
			refusal = string(body)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, right := range rightsOf(req) {
			r.used[right] = true
			if refusal != "" && !strings.Contains(refusal, "is being terminated") {
				r.refused[right] = refusal
			}
		}
		return resp, nil
	})
}

// rightsOf are the rights that a request uses, each "GROUP RESOURCE VERB"
// (kubernetes.io/docs/reference/access-authn-authz/authorization).
func rightsOf(req *http.Request) []string {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return nil // discovery
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource := parts[0]
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verbs := map[string][]string{http.MethodPost: {"create"}, http.MethodPut: {"update"}, http.MethodPatch: {"patch"}, http.MethodDelete: {"delete"}}[req.Method]
	switch {
	case req.URL.Query().Get("watch") == "true":
		verbs = []string{"watch"}
	case req.Method == http.MethodGet && len(parts) == 1:
		verbs = []string{"list"}
	case req.Method == http.MethodGet:
		verbs = []string{"get"}
	case strings.HasPrefix(req.Header.Get("Content-Type"), "application/apply-patch"):
		verbs = []string{"patch", "create"} // as the API server wants where the object is new
	}
	for i, verb := range verbs {
		verbs[i] = group + " " + resource + " " + verb
	}
	return verbs
}

// optional is a right that the operator has in some installations alone.
func (r *rights) optional(right string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.choice[right] = true
}

// verdict compares the rights that were used with those of the role. Unused ones
// are reported only if all tests have run.
func (r *rights) verdict(all bool) (faults []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file, err := os.Open("../config/rbac/role.yaml")
	if err != nil {
		return append(faults, err.Error())
	}
	defer file.Close()
	granted := map[string]bool{}
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		var role rbacv1.Role // a ClusterRole's rules look the same
		if documents.Decode(&role) != nil {
			break
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						granted[group+" "+resource+" "+verb] = true
					}
				}
			}
		}
	}
	if len(granted) == 0 {
		return append(faults, "the role grants nothing")
	}
	for right, answer := range r.refused {
		// An API server that has just started does not know yet whom it grants what.
		if !granted[right] && !r.choice[right] || strings.Contains(answer, "cannot set") {
			faults = append(faults, "the role lacks a right that the operator needs: "+right+": "+answer)
		}
	}
	for right := range unasked {
		if !granted[right] {
			faults = append(faults, "a reason is given for a right that is not granted: "+right)
		}
	}
	for right := range granted {
		listed, ok := strings.CutSuffix(right, " list")
		if all && !r.used[right] && unasked[right] == "" && !(ok && r.used[listed+" watch"]) {
			faults = append(faults, "the role grants a right that the operator does not use: "+right)
		}
	}
	slices.Sort(faults)
	return slices.Compact(faults)
}

// tell prints faults that concern all tests.
func tell(faults []string) (failed bool) {
	for _, f := range faults {
		fmt.Fprintln(os.Stderr, "FAIL:", f)
	}
	return len(faults) > 0
}
