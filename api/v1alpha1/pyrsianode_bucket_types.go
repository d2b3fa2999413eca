package v1alpha1

// Bucket is an S3-compatible bucket, or a part of one, that no other publisher
// writes to.
type Bucket struct {
	// name is the bucket's name.
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9][a-z0-9.-]*[a-z0-9]$`
	// +required
	Name string `json:"name,omitempty"`

	// prefix is before the names of all objects, such as "pyrsia/publisher". There
	// is none by default.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`
	// +optional
	Prefix string `json:"prefix,omitempty"`

	// endpoint is the URL of the S3 API, such as https://minio.storage.svc:9000.
	// By default it is that of AWS.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$`
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// region is the bucket's region. The default is us-east-1.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	// +optional
	Region string `json:"region,omitempty"`

	// credentialsSecretRef names a Secret with the keys "access-key-id" and
	// "secret-access-key", which may list, read, write and delete the objects. The
	// operator cannot read it; the publisher's pod mounts it, waits until it is
	// there, and takes up changes without a restart. By default the pod's own role
	// in the cloud counts.
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`

	// caSecretRef names a Secret whose "ca.crt" (PEM) has signed the endpoint's
	// certificate, beside the public authorities.
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`
}
