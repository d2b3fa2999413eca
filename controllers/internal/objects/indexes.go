package objects

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// The field indexes of the cache.
const (
	// IndexPublisher finds the mirrors and the image sets of a publisher.
	IndexPublisher = "publisher"
	// IndexStage finds the Artifacts of a publisher that wait for something.
	IndexStage = "stage"
	// IndexDigest finds the Artifacts of a digest, and IndexWithdrawal those of them
	// that have withdrawn or restored it.
	IndexDigest     = "digest"
	IndexWithdrawal = "withdrawal"
	// IndexSet finds the Artifacts of an OfficialImageSet and IndexNode those of a
	// PyrsiaNode, by its UID.
	IndexSet  = "set"
	IndexNode = "node"
)

// SetupIndexes has the cache keep the indexes.
func SetupIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	publisherOf := func(obj client.Object) []string {
		switch o := obj.(type) {
		case *v1alpha1.PyrsiaNode:
			if o.Spec.Network != nil && o.Spec.Network.PublisherRef != nil {
				return []string{o.Spec.Network.PublisherRef.Name}
			}
		case *v1alpha1.OfficialImageSet:
			return []string{o.Spec.PublisherRef.Name}
		}
		return nil
	}
	for _, index := range []struct {
		obj   client.Object
		field string
		value client.IndexerFunc
	}{
		{&v1alpha1.PyrsiaNode{}, IndexPublisher, publisherOf},
		{&v1alpha1.OfficialImageSet{}, IndexPublisher, publisherOf},
		{&v1alpha1.Artifact{}, IndexStage, stageOf},
		{&v1alpha1.Artifact{}, IndexDigest, digestOf},
		{&v1alpha1.Artifact{}, IndexWithdrawal, withdrawnDigestOf},
		{&v1alpha1.Artifact{}, IndexSet, setsThatMade},
		{&v1alpha1.Artifact{}, IndexNode, nodesOf},
	} {
		if err := indexer.IndexField(ctx, index.obj, index.field, index.value); err != nil {
			return fmt.Errorf("indexing %T by %s: %w", index.obj, index.field, err)
		}
	}
	return nil
}

// The stages of an Artifact in IndexStage, each before the publisher's name.
const (
	StagePublish = "publish:" // being published
	StageFailed  = "failed:"  // failed to be published or verified
	StageMirror  = "mirror:"  // verified, waiting for mirrors
)

// stageOf is an Artifact's value in IndexStage: none when all is done.
func stageOf(obj client.Object) []string {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok || status.IsTrue(art, v1alpha1.ConditionReady) {
		return nil
	}
	stage := StagePublish
	switch {
	case art.Spec.State == v1alpha1.StateRevoked:
	case status.IsTrue(art, v1alpha1.ConditionVerified):
		stage = StageMirror
	case meta.IsStatusConditionFalse(art.Status.Conditions, v1alpha1.ConditionPublished),
		meta.IsStatusConditionFalse(art.Status.Conditions, v1alpha1.ConditionVerified):
		stage = StageFailed
	}
	return []string{stage + art.Spec.PublisherRef.Name + art.Spec.NodeRef.Name} // one of them is set
}

// digestOf is an Artifact's value in IndexDigest.
func digestOf(obj client.Object) []string {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok {
		return nil
	}
	return []string{art.Spec.Digest}
}

// withdrawnDigestOf is an Artifact's value in IndexWithdrawal.
func withdrawnDigestOf(obj client.Object) []string {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok {
		return nil
	}
	if b, _ := WithdrawalOf(art); b == nil {
		return nil
	}
	return digestOf(art)
}

// setsThatMade is an Artifact's value in IndexSet: the UIDs of its owners, if it has
// the name that sets give. An owner reference alone proves nothing: any creator of an
// Artifact can name any owner.
func setsThatMade(obj client.Object) (uids []string) {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok || len(art.OwnerReferences) == 0 || art.Name != ArtifactName(art.Spec.Image, art.Spec.Digest) {
		return nil
	}
	for _, ref := range art.OwnerReferences {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

// nodesOf is an Artifact's value in IndexNode.
func nodesOf(obj client.Object) (uids []string) {
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Kind == "PyrsiaNode" {
			uids = append(uids, string(ref.UID))
		}
	}
	return uids
}
