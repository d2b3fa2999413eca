package bucket

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// Config says where a bucket is and with which credentials it is used.
type Config struct {
	// URL is s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION. All
	// but the bucket may be left out: then it is AWS's, in us-east-1.
	URL string
	// SecretDir is a folder with access-key-id and secret-access-key, or
	// neither, and ca.crt (PEM) if the endpoint's CA is a private one. They are
	// read again when they change; ca.crt is read once. Without keys there are
	// those of the environment and files that AWS's tools use, or of the
	// machine's role.
	SecretDir string
}

// location is what a bucket's URL says.
type location struct {
	bucket   string
	prefix   string // empty, or with a slash at its end
	endpoint string // HOST:PORT
	secure   bool
	region   string
}

// String names the bucket in messages.
func (l location) String() string { return l.bucket + "/" + l.prefix + " at " + l.endpoint }

// parse reads a bucket's URL.
func parse(s string) (location, error) {
	bad := func(format string, args ...any) (location, error) {
		return location{}, fmt.Errorf("bucket %q: %s; want s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION", s, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("%v", err)
	}
	if u.Scheme != "s3" || u.Host == "" || u.User != nil {
		return bad("it is not s3://BUCKET")
	}
	l := location{bucket: u.Host, endpoint: "s3.amazonaws.com", secure: true, region: "us-east-1"}
	if p := strings.Trim(u.Path, "/"); p != "" {
		l.prefix = p + "/"
	}
	for name, values := range u.Query() {
		switch value := values[0]; name {
		case "region":
			l.region = value
		case "endpoint":
			e, err := url.Parse(value)
			if err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" || strings.Trim(e.Path, "/") != "" {
				return bad("endpoint %q is not http or https with a host and no path", value)
			}
			l.endpoint, l.secure = e.Host, e.Scheme == "https"
		default:
			return bad("it has no parameter %q", name)
		}
	}
	return l, nil
}

// Check tells whether a URL can be a bucket's.
func Check(url string) error {
	_, err := parse(url)
	return err
}

func connect(c Config) (*Bucket, error) {
	l, err := parse(c.URL)
	if err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(l.secure)
	if err != nil {
		return nil, err
	}
	transport.ResponseHeaderTimeout = slack
	if err := trust(transport, c.SecretDir); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", l, err)
	}
	keys, err := keysOf(c.SecretDir)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", l, err)
	}
	client, err := minio.New(l.endpoint, &minio.Options{
		Secure: l.secure, Region: l.region, Transport: transport, Creds: keys,
		MaxRetries: 6, // with back-off, about five seconds
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", l, err)
	}
	return &Bucket{location: l, client: client, blobs: map[digest.Digest]int64{}}, nil
}

// trust adds the folder's CA to those of the system.
func trust(t *http.Transport, dir string) error {
	pem, err := durable.Read(filepath.Join(dir, "ca.crt"))
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate in PEM", filepath.Join(dir, "ca.crt"))
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = pool
	return nil
}

// keysOf are the keys of a folder, or where there are none those of the machine.
func keysOf(dir string) (*credentials.Credentials, error) {
	f := &folder{dir: dir}
	found, err := f.Retrieve()
	if err != nil {
		return nil, err
	}
	if found.AccessKeyID != "" {
		return credentials.New(f), nil
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Timeout: 10 * time.Second}},
	}), nil
}

// folder reads keys from files, as a Secret of Kubernetes is mounted. It
// implements credentials.Provider.
type folder struct {
	dir  string
	read time.Time
}

// refresh is how long keys are used before the files are read again.
const refresh = time.Minute

// Retrieve implements credentials.Provider.
func (f *folder) Retrieve() (credentials.Value, error) {
	if f.dir == "" {
		return credentials.Value{}, nil
	}
	id, err1 := durable.Read(filepath.Join(f.dir, "access-key-id"))
	key, err2 := durable.Read(filepath.Join(f.dir, "secret-access-key"))
	if errors.Is(err1, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist) {
		return credentials.Value{}, nil
	}
	if err := errors.Join(err1, err2); err != nil {
		return credentials.Value{}, err
	}
	f.read = time.Now()
	return credentials.Value{
		AccessKeyID: strings.TrimSpace(string(id)), SecretAccessKey: strings.TrimSpace(string(key)),
		SignerType: credentials.SignatureV4,
	}, nil
}

// RetrieveWithCredContext implements credentials.Provider.
func (f *folder) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return f.Retrieve()
}

// IsExpired implements credentials.Provider.
func (f *folder) IsExpired() bool { return time.Since(f.read) > refresh }
