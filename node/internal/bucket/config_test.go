package bucket

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	for url, want := range map[string]location{
		"s3://content": {bucket: "content", endpoint: "s3.amazonaws.com", secure: true, region: "us-east-1"},
		"s3://content/a/b/?endpoint=http://minio.storage:9000&region=eu": {bucket: "content", prefix: "a/b/", endpoint: "minio.storage:9000", region: "eu"},
	} {
		if got, err := parse(url); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", url, got, err, want)
		}
	}
	for _, url := range []string{
		"", "content", "https://content", "s3://", "s3://user:key@content", "s3://content?endpoint=minio:9000",
		"s3://content?endpoint=https://minio/path", "s3://content?acl=public",
	} {
		if _, err := parse(url); err == nil || !strings.Contains(err.Error(), "s3://BUCKET/PREFIX") {
			t.Errorf("%q: %v, want a refusal that says what is right", url, err)
		}
	}
}

func TestKeysOfAFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "env")
	for _, want := range []string{"env", "", "first"} {
		keys, err := keysOf(dir)
		if want == "" {
			if err == nil {
				t.Error("an id without a key: want an error")
			}
			write("secret-access-key", "secret\n")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if v, err := keys.GetWithContext(nil); err != nil || v.AccessKeyID != want {
			t.Errorf("keys of %q, %v, want %q", v.AccessKeyID, err, want)
		}
		write("access-key-id", "first\n")
	}
}
