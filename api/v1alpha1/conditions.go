package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The conditions that each kind has. Ready sums up the kind's steps.
// Reconciling and Stalled follow kstatus: they exist only while they are True.
const (
	ConditionReady       = "Ready"
	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
)

// The steps of a PyrsiaNode.
const (
	// ConditionKeysReady: the node's Secrets are in place.
	ConditionKeysReady = "KeysReady"
	// ConditionNetworkReady: the mirror knows which ledger to trust and where
	// to find its first peers. Publishers do not have it.
	ConditionNetworkReady = "NetworkReady"
	// ConditionWorkloadReady: all pods of the node are ready.
	ConditionWorkloadReady = "WorkloadReady"
	// ConditionLedgerVerified: the ledger that the pods serve carries the
	// pinned key's signature and extends what was verified before.
	ConditionLedgerVerified = "LedgerVerified"
)

// PublisherSteps and MirrorSteps are the conditions that make a PyrsiaNode
// Ready, in the order in which they are reached.
var (
	PublisherSteps = []string{ConditionKeysReady, ConditionWorkloadReady, ConditionLedgerVerified}
	MirrorSteps    = []string{ConditionKeysReady, ConditionNetworkReady, ConditionWorkloadReady, ConditionLedgerVerified}
)

// The steps of an OfficialImageSet and an Artifact.
const (
	// ConditionPlanned: it is known which images the set holds.
	ConditionPlanned = "Planned"
	// ConditionResolved: each tag of the set was resolved to a digest.
	ConditionResolved = "Resolved"
	// ConditionPublished: on an Artifact, the image is on the ledger; on an
	// OfficialImageSet, all its Artifacts are Ready.
	ConditionPublished = "Published"
	// ConditionVerified: the operator has checked the block's inclusion proof
	// against the publisher's pinned key.
	ConditionVerified = "Verified"
	// ConditionMirrored: the mirrors of the publisher have the block.
	ConditionMirrored = "Mirrored"
	// ConditionRevoked: the ledger holds a block that withdraws the image, whose
	// inclusion proof the operator has checked.
	ConditionRevoked = "Revoked"
)

// OfficialImageSetSteps are the conditions that make an OfficialImageSet Ready.
var OfficialImageSetSteps = []string{ConditionPlanned, ConditionResolved, ConditionPublished}

// ArtifactSteps are the conditions that make an Artifact Ready.
var ArtifactSteps = []string{ConditionPublished, ConditionVerified, ConditionMirrored}

// LookupSteps are the conditions that make an Artifact Ready whose spec.nodeRef
// has it looked up.
var LookupSteps = []string{ConditionPublished, ConditionVerified}

// RevokedSteps are the conditions that make an Artifact Ready whose spec.state
// is Revoked.
var RevokedSteps = []string{ConditionRevoked}

// PlanSteps are the conditions that make an OfficialImageSet Ready whose
// spec.mode is Plan.
var PlanSteps = []string{ConditionPlanned}

// What the controllers need of each kind's status: its conditions, the
// generation that they are about, and the steps that make it Ready.

// Conditions are the conditions in the status.
func (n *PyrsiaNode) Conditions() *[]metav1.Condition { return &n.Status.Conditions }

// ObservedGeneration is the generation that the status is about.
func (n *PyrsiaNode) ObservedGeneration() *int64 { return &n.Status.ObservedGeneration }

// Steps are the conditions that make the node Ready.
func (n *PyrsiaNode) Steps() []string {
	if n.Spec.Role == RolePublisher {
		return PublisherSteps
	}
	return MirrorSteps
}

// Conditions are the conditions in the status.
func (s *OfficialImageSet) Conditions() *[]metav1.Condition { return &s.Status.Conditions }

// ObservedGeneration is the generation that the status is about.
func (s *OfficialImageSet) ObservedGeneration() *int64 { return &s.Status.ObservedGeneration }

// Steps are the conditions that make the set Ready.
func (s *OfficialImageSet) Steps() []string {
	if s.Spec.Mode == SetModePlan {
		return PlanSteps
	}
	return OfficialImageSetSteps
}

// Conditions are the conditions in the status.
func (a *Artifact) Conditions() *[]metav1.Condition { return &a.Status.Conditions }

// ObservedGeneration is the generation that the status is about.
func (a *Artifact) ObservedGeneration() *int64 { return &a.Status.ObservedGeneration }

// Steps are the conditions that make the Artifact Ready.
func (a *Artifact) Steps() []string {
	switch {
	case a.Spec.State == StateRevoked:
		return RevokedSteps
	case a.Spec.NodeRef.Name != "":
		return LookupSteps
	}
	return ArtifactSteps
}
