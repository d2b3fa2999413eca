// Package v1alpha1 holds the custom resources of pyrsia.io/v1alpha1:
// PyrsiaNode, OfficialImageSet and Artifact.
//
// +kubebuilder:object:generate=true
// +groupName=pyrsia.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "pyrsia.io", Version: "v1alpha1"}

// AddToScheme adds the kinds of this package to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&PyrsiaNode{}, &PyrsiaNodeList{},
		&OfficialImageSet{}, &OfficialImageSetList{},
		&Artifact{}, &ArtifactList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
