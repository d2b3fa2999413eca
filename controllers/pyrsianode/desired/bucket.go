package desired

import (
	"fmt"
	"net/url"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// bucketSecretsPath is where a publisher's pod finds the secrets of its bucket.
const bucketSecretsPath = "/bucket"

// bucketArgs have a publisher keep its content in a bucket, with its volume as
// a cache.
func bucketArgs(n *v1alpha1.PyrsiaNode) []string {
	b := n.Spec.Storage.Bucket
	if b == nil {
		return nil
	}
	query := url.Values{}
	if b.Endpoint != "" {
		query.Set("endpoint", b.Endpoint)
	}
	if b.Region != "" {
		query.Set("region", b.Region)
	}
	at := url.URL{Scheme: "s3", Host: b.Name, Path: b.Prefix, RawQuery: query.Encode()}
	size := volumeSize(n)
	cache := size.Value() / 2 // the ledger is on the volume as well
	if n.Spec.CacheSize != nil {
		cache = n.Spec.CacheSize.Value()
	}
	args := []string{"--bucket", at.String(), "--cache-size", fmt.Sprint(cache)}
	if len(bucketSecrets(b).Sources) > 0 {
		args = append(args, "--bucket-secrets", bucketSecretsPath)
	}
	return args
}

// mountBucketSecrets mounts the bucket's keys and CA. Without a Secret that is
// named the pod does not start, and the kubelet says which it is.
func mountBucketSecrets(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode) {
	if n.Spec.Storage.Bucket == nil {
		return
	}
	secrets := bucketSecrets(n.Spec.Storage.Bucket)
	if len(secrets.Sources) == 0 {
		return
	}
	spec.WithVolumes(coreac.Volume().WithName("bucket").WithProjected(secrets))
	spec.Containers[0].WithVolumeMounts(coreac.VolumeMount().WithName("bucket").WithMountPath(bucketSecretsPath).WithReadOnly(true))
}

func bucketSecrets(b *v1alpha1.Bucket) *coreac.ProjectedVolumeSourceApplyConfiguration {
	sources := coreac.ProjectedVolumeSource().WithDefaultMode(0o440)
	keys := func(ref *v1alpha1.LocalReference, names ...string) {
		if ref == nil {
			return
		}
		secret := coreac.SecretProjection().WithName(ref.Name)
		for _, name := range names {
			secret.WithItems(coreac.KeyToPath().WithKey(name).WithPath(name))
		}
		sources.WithSources(coreac.VolumeProjection().WithSecret(secret))
	}
	keys(b.CredentialsSecretRef, "access-key-id", "secret-access-key")
	keys(b.CASecretRef, "ca.crt")
	return sources
}
