package controllers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// reasonAt is which argument of a function is a reason.
var reasonAt = map[string]int{"SetDone": 2, "SetWaiting": 2, "SetFailed": 2, "SetRefused": 2, "setCondition": 3, "raiseNotRestored": 1, "unmade": 1, "Eventf": 3}

// Reasons and conditions are constants of the API: no code writes one out, or puts a
// reason together.
func TestReasonsAreConstants(t *testing.T) {
	reasons, conditions := constantsOf(t, "../api/v1alpha1/reasons.go", "Reason"), constantsOf(t, "../api/v1alpha1/conditions.go", "Condition")
	places := 0
	eachFile(t, func(files *token.FileSet, file *ast.File) {
		literal := func(e ast.Expr) {
			places++
			ast.Inspect(e, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if ok && lit.Kind == token.STRING && lit.Value != `""` {
					t.Errorf("%s: a reason is written as %s: add a constant to api/v1alpha1/reasons.go", files.Position(lit.Pos()), lit.Value)
				}
				_, isCall := n.(*ast.CallExpr) // what it is given is its own business
				return !isCall
			})
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if at, ok := reasonAt[nameOf(n.Fun)]; ok && at < len(n.Args) {
					literal(n.Args[at])
				}
			case *ast.KeyValueExpr:
				if isReason(n.Key) {
					literal(n.Value)
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if isReason(left) && len(n.Rhs) == len(n.Lhs) {
						literal(n.Rhs[i])
					}
				}
			case *ast.BasicLit:
				value, err := strconv.Unquote(n.Value)
				if err == nil && n.Kind == token.STRING && (reasons["Reason"+value] != "" || conditions["Condition"+value] != "") {
					t.Errorf("%s: write %q as a constant of api/v1alpha1", files.Position(n.Pos()), value)
				}
			}
			return true
		})
	})
	if places < 50 {
		t.Errorf("only %d reasons were found: the test does not look where they are", places)
	}
}

func isReason(e ast.Expr) bool { return strings.EqualFold(nameOf(e), "reason") }

// nameOf is the name of a variable, a field or a function.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// eachFile parses the code that writes or reads conditions.
func eachFile(t *testing.T, do func(*token.FileSet, *ast.File)) {
	t.Helper()
	for _, root := range []string{".", "../cmd/kubectl-pyrsia", "../cmd/pyrsia-operator"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err == nil {
				do(files, file)
			}
			return err
		})
		must(t, err)
	}
}

// constantsOf are the string constants of a file whose names begin with a word.
func constantsOf(t *testing.T, path, prefix string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	must(t, err)
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			out[spec.Names[0].Name], _ = strconv.Unquote(lit.Value)
		}
		return true
	})
	if len(out) == 0 {
		t.Fatalf("%s has no constants %s...", path, prefix)
	}
	return out
}

// Each reason is named as its value, those of nodes are among them, and the alerts name
// conditions that there are.
func TestReasonsAndConditionsAreNamedAsTheirValues(t *testing.T) {
	reasons, conditions := constantsOf(t, "../api/v1alpha1/reasons.go", "Reason"), constantsOf(t, "../api/v1alpha1/conditions.go", "Condition")
	for prefix, constants := range map[string]map[string]string{"Reason": reasons, "Condition": conditions} {
		for name, value := range constants {
			if name != prefix+value {
				t.Errorf("%s is %q", name, value)
			}
		}
	}
	for name, value := range constantsOf(t, "../node/control/api.go", "Reason") {
		if reasons["Reason"+value] == "" {
			t.Errorf("api/v1alpha1/reasons.go lacks %q, which is control.%s", value, name)
		}
	}
	alerts, err := os.ReadFile("../charts/pyrsia-operator/monitoring/alerts.yaml")
	must(t, err)
	for _, match := range regexp.MustCompile(`type=~?"([A-Za-z|]+)"`).FindAllStringSubmatch(string(alerts), -1) {
		for condition := range strings.SplitSeq(match[1], "|") {
			if conditions["Condition"+condition] == "" {
				t.Errorf("an alert names the condition %q, which no object has", condition)
			}
		}
	}
}
