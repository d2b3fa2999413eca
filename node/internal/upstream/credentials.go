package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// The files of a folder with an upstream's secrets, as Kubernetes mounts
// Secrets of the types basic-auth and dockerconfigjson.
const (
	usernameFile     = "username"
	passwordFile     = "password"
	dockerConfigFile = ".dockerconfigjson"
	caFile           = "ca.crt"
)

// maxSecret bounds a file with credentials.
const maxSecret = 1 << 20

// credentials are read anew whenever a token is asked for, so that they can be
// changed and taken away while the node runs.
type credentials struct {
	dir   string
	hosts []string // names by which a Docker configuration may know the registry
}

// Authorization implements authn.Authenticator. Without credentials it is
// anonymous.
func (c credentials) Authorization() (*authn.AuthConfig, error) {
	if c.dir == "" {
		return &authn.AuthConfig{}, nil
	}
	username, err := c.read(usernameFile)
	if err != nil {
		return nil, err
	}
	if username != "" {
		password, err := c.read(passwordFile)
		return &authn.AuthConfig{Username: strings.TrimSpace(username), Password: strings.TrimRight(password, "\r\n")}, err
	}
	data, err := c.read(dockerConfigFile)
	if err != nil || data == "" {
		return &authn.AuthConfig{}, err
	}
	auth, err := parseDockerConfig([]byte(data), c.hosts)
	if err != nil {
		return nil, &Error{Kind: Unauthorized, Err: err}
	}
	return auth, nil
}

// given tells whether there are credentials, also such as cannot be read.
func (c credentials) given() bool {
	auth, err := c.Authorization()
	return err != nil || *auth != authn.AuthConfig{}
}

// read reads a file that need not exist.
func (c credentials) read(name string) (string, error) {
	info, err := os.Stat(filepath.Join(c.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && info.Size() > maxSecret {
		err = fmt.Errorf("%d bytes: at most %d", info.Size(), maxSecret)
	}
	if err != nil {
		return "", fmt.Errorf("reading the credentials: %s: %w", name, err)
	}
	data, err := durable.Read(filepath.Join(c.dir, name))
	if err != nil {
		return "", fmt.Errorf("reading the credentials: %w", err)
	}
	return string(data), nil
}

// parseDockerConfig finds the credentials of a registry in Docker's
// config.json, by any of its names.
func parseDockerConfig(data []byte, hosts []string) (*authn.AuthConfig, error) {
	config := configfile.New(dockerConfigFile)
	if err := config.LoadFromReader(bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("%s: %w: each auth is base64 of USER:PASSWORD", dockerConfigFile, err)
	}
	for key, a := range config.AuthConfigs {
		host := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		for _, want := range hosts {
			if host == want {
				return &authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}, nil
			}
		}
	}
	return nil, fmt.Errorf("%s has no credentials for %s", dockerConfigFile, strings.Join(hosts, " or "))
}
