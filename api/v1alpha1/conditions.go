package v1alpha1

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// ConditionNetworkReady: a mirror knows which ledger to trust and where to
	// find its first peers; a publisher that is exposed has an address outside.
	ConditionNetworkReady = "NetworkReady"
	// ConditionWorkloadReady: all pods of the node are ready.
	ConditionWorkloadReady = "WorkloadReady"
	// ConditionLedgerVerified: the ledger that the pods serve carries the
	// pinned key's signature and extends what was verified before.
	ConditionLedgerVerified = "LedgerVerified"
	// ConditionContainerdUsesMirror: containerd on each Kubernetes node has pulled
	// an image that it can get through the mirror alone, since it was started. Not
	// of a mirror whose containerd is Unmanaged.
	ConditionContainerdUsesMirror = "ContainerdUsesMirror"
)

// The alarms of a PyrsiaNode. They exist only while they are True, and say
// what to do.
const (
	// ConditionLedgerForked: the publisher signed two ledgers that contradict
	// each other.
	ConditionLedgerForked = "LedgerForked"
	// ConditionLedgerRolledBack: the publisher has, or signed, a smaller ledger
	// than before.
	ConditionLedgerRolledBack = "LedgerRolledBack"
	// ConditionLedgerKeyMisused: a key that has handed the ledger over signs on, or
	// one key has handed it over to two: somebody else has it.
	ConditionLedgerKeyMisused = "LedgerKeyMisused"
	// ConditionLedgerKeyChanged: the ledger was handed over to a key that nobody
	// has pinned, asked for or acknowledged.
	ConditionLedgerKeyChanged = "LedgerKeyChanged"
	// ConditionLedgerStale: the publisher has not signed the ledger for too long.
	ConditionLedgerStale = "LedgerStale"
	// ConditionDiskFull: a node's disk has hardly any room left.
	ConditionDiskFull = "DiskFull"
	// ConditionVerificationFailed: content on a node's disk was not what it
	// should be.
	ConditionVerificationFailed = "VerificationFailed"
	// ConditionContentUnavailable: pulls were refused, within the last ten
	// minutes, because no node that has the content was within reach.
	ConditionContentUnavailable = "ContentUnavailable"
)

// NodeAlarms are the conditions above, the gravest first.
var NodeAlarms = []string{
	ConditionLedgerForked, ConditionLedgerRolledBack, ConditionLedgerKeyMisused, ConditionLedgerKeyChanged,
	ConditionVerificationFailed, ConditionDiskFull, ConditionContentUnavailable, ConditionLedgerStale,
}

// ConditionContainerdNotRestored is an alarm that the operator raises itself:
// some Kubernetes nodes still have a mirror's set-up of containerd that should
// be put back, and it does not get there.
const ConditionContainerdNotRestored = "ContainerdNotRestored"

// ConditionNotAllowed is of a PyrsiaNode that breaks the administrator's rules for
// Kubernetes nodes, and exists only while it is True: nothing is made for it, or
// it goes on because it ran before the rules did not allow it. Its message has
// the line that mends it.
const ConditionNotAllowed = "NotAllowed"

// ConditionNodesCovered is of a mirror: it has a pod on each Kubernetes node that
// it is for. It does not keep the mirror from being Ready, for some nodes may be
// down at any time, but Ready says so.
const ConditionNodesCovered = "NodesCovered"

// NodeRemarks are the conditions of a PyrsiaNode that Ready tells of in its reason
// and message while they are False, although it is True.
var NodeRemarks = []string{ConditionNodesCovered}

// NodeSteps are the conditions that make a PyrsiaNode Ready, in the order in
// which they are reached.
var NodeSteps = []string{ConditionKeysReady, ConditionNetworkReady, ConditionWorkloadReady, ConditionLedgerVerified}

// MirrorSteps are those of a mirror that manages containerd.
var MirrorSteps = append(slices.Clone(NodeSteps), ConditionContainerdUsesMirror)

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
	// ConditionRestored: the ledger holds a block that lifts the withdrawal of the
	// image, whose inclusion proof the operator has checked.
	ConditionRestored = "Restored"
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

// RestoredSteps are the conditions that make an Artifact Ready whose spec.state
// is Restored.
var RestoredSteps = []string{ConditionRestored, ConditionPublished, ConditionVerified, ConditionMirrored}

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
	if n.Spec.Role == RoleMirror && (n.Spec.Mirror == nil || n.Spec.Mirror.Containerd != ContainerdUnmanaged) {
		return MirrorSteps
	}
	return NodeSteps
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
	case a.Spec.State == StateRestored:
		return RestoredSteps
	case a.Spec.NodeRef.Name != "":
		return LookupSteps
	}
	return ArtifactSteps
}
