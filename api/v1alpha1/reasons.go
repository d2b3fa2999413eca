package v1alpha1

// The reasons of conditions, of status.failures and of events. Each constant is named as
// its value. The reason of an alarm is its condition. A reason that a node of a later
// version gives, and that this one does not know, is passed on as it is.

// Of Ready.
const (
	ReasonSucceeded   = "Succeeded"
	ReasonProgressing = "Progressing" // a step was not looked at yet
)

// Of a PyrsiaNode or publisher that an object refers to and that cannot be asked.
const (
	ReasonInvalidPublisherRef        = "InvalidPublisherRef" // it is a mirror
	ReasonPublisherNotFound          = "PublisherNotFound"
	ReasonPublisherNotReady          = "PublisherNotReady"
	ReasonPublisherLedgerNotVerified = "PublisherLedgerNotVerified"
	ReasonPublisherBusy              = "PublisherBusy"  // it is asked for others first
	ReasonPublisherHangs             = "PublisherHangs" // it takes requests and does not answer
	ReasonNodeNotFound               = "NodeNotFound"
	ReasonNodeNotReady               = "NodeNotReady"
	ReasonNodeLedgerNotVerified      = "NodeLedgerNotVerified"
	ReasonNodeUnreachable            = "NodeUnreachable" // its control API does not answer
	ReasonMirrorBusy                 = "MirrorBusy"
	ReasonMirrorHangs                = "MirrorHangs"
)

// Of a PyrsiaNode's steps.
const (
	ReasonNameConflict = "NameConflict" // an object of that name is not the operator's
	ReasonNotApplied   = "NotApplied"   // the API server refuses an object
	ReasonRollout      = "Rollout"      // what was changed is not in place everywhere yet

	ReasonApplied          = "Applied"
	ReasonSecretNotWritten = "SecretNotWritten"
	ReasonSpecTooLarge     = "SpecTooLarge"

	ReasonKnown            = "Known"    // a mirror knows its ledger and first peers
	ReasonInternal         = "Internal" // a publisher is open to its cluster alone
	ReasonExposed          = "Exposed"
	ReasonAddressPending   = "AddressPending"
	ReasonAddressLost      = "AddressLost"
	ReasonInvalidLedgerKey = "InvalidLedgerKey"
	ReasonLedgerReplaced   = "LedgerReplaced"

	ReasonPodsReady         = "PodsReady"
	ReasonPodsNotReady      = "PodsNotReady"
	ReasonNoKubernetesNode  = "NoKubernetesNode"
	ReasonImageBehindMirror = "ImageBehindMirror" // the mirror's own image comes through the mirror alone
	ReasonRegistryTaken     = "RegistryTaken"     // by another mirror
	ReasonPortTaken         = "PortTaken"         // by another process
	ReasonFolderTaken       = "FolderTaken"       // by another PyrsiaNode
	ReasonSetUpRefused      = "SetUpRefused"      // something that is set up could not be kept

	ReasonVerified     = "Verified"
	ReasonNoCheckpoint = "NoCheckpoint"
	ReasonKeyChanged   = "KeyChanged"
	ReasonBadSignature = "BadSignature"

	ReasonProven          = "Proven"
	ReasonProving         = "Proving"
	ReasonNotProven       = "NotProven"
	ReasonCanaryRewritten = "CanaryRewritten" // by an admission webhook
)

// Of what a PyrsiaNode has beside its steps.
const (
	ReasonCovered         = "Covered"
	ReasonNodesNotCovered = "NodesNotCovered"
	ReasonNotCounted      = "NotCounted" // the operator may not read Kubernetes nodes
	ReasonTaintNotRemoved = "TaintNotRemoved"

	ReasonRefused = "Refused" // NotAllowed: nothing is made
	ReasonGoesOn  = "GoesOn"  // NotAllowed: it ran before

	ReasonCleanupRefused = "CleanupRefused" // by the API server
	ReasonCleanupNotDone = "CleanupNotDone" // on some Kubernetes nodes

	ReasonKeyRotated     = "KeyRotated"
	ReasonReceiptRefused = "ReceiptRefused" // a pod tells of a pull that its ledger does not prove
)

// Of the events that tell the end of alarms.
const (
	ReasonLedgerForkedEnded          = "LedgerForkedEnded"
	ReasonLedgerRolledBackEnded      = "LedgerRolledBackEnded"
	ReasonLedgerKeyMisusedEnded      = "LedgerKeyMisusedEnded"
	ReasonLedgerKeyChangedEnded      = "LedgerKeyChangedEnded"
	ReasonLedgerStaleEnded           = "LedgerStaleEnded"
	ReasonDiskFullEnded              = "DiskFullEnded"
	ReasonVerificationFailedEnded    = "VerificationFailedEnded"
	ReasonContentUnavailableEnded    = "ContentUnavailableEnded"
	ReasonContainerdNotRestoredEnded = "ContainerdNotRestoredEnded"
	ReasonNotAllowedEnded            = "NotAllowedEnded"
)

// Of an OfficialImageSet, and of its status.failures.
const (
	ReasonPlanned             = "Planned"
	ReasonResolved            = "Resolved"
	ReasonResolving           = "Resolving"
	ReasonResolveFailed       = "ResolveFailed" // for more than one reason: see status.failures
	ReasonSuspended           = "Suspended"
	ReasonImagesFailed        = "ImagesFailed"
	ReasonTooManyImages       = "TooManyImages"    // in the namespace's sets
	ReasonTooManyArtifacts    = "TooManyArtifacts" // were made in a short time
	ReasonArtifactTerminating = "ArtifactTerminating"
)

// Of an Artifact.
const (
	ReasonPublished     = "Published"
	ReasonPublishing    = "Publishing"
	ReasonQueued        = "Queued"
	ReasonInvalidImage  = "InvalidImage"
	ReasonInvalidBlock  = "InvalidBlock" // no ledger has such a block
	ReasonProofVerified = "ProofVerified"
	ReasonProofInvalid  = "ProofInvalid"
	ReasonMirrored      = "Mirrored"
	ReasonMirrorsBehind = "MirrorsBehind"
	ReasonNoMirrors     = "NoMirrors"
	ReasonRevoked       = "Revoked"
	ReasonRestored      = "Restored"
	ReasonTerminating   = "Terminating"
)

// Of a publisher, or of the registry that it asks, which refuses an image. ReasonPublisherBusy
// and ReasonRevoked are among them too.
const (
	ReasonInvalidRequest        = "InvalidRequest"
	ReasonNotPublisher          = "NotPublisher"
	ReasonImageNotFound         = "ImageNotFound"
	ReasonUpstreamUnauthorized  = "UpstreamUnauthorized"
	ReasonUpstreamRateLimited   = "UpstreamRateLimited"
	ReasonUpstreamUnavailable   = "UpstreamUnavailable"
	ReasonUpstreamInvalid       = "UpstreamInvalid"
	ReasonRepositoryPrivate     = "RepositoryPrivate" // only the publisher's login can read it
	ReasonTagPointsElsewhere    = "TagPointsElsewhere"
	ReasonDigestNotInRepository = "DigestNotInRepository"
	ReasonSuperseded            = "Superseded" // the tag went on
	ReasonLedgerBehind          = "LedgerBehind"
	ReasonDiskFull              = "DiskFull"
	ReasonCatalogInvalid        = "CatalogInvalid"
	ReasonPlatformsMissing      = "PlatformsMissing"
	ReasonNotOnLedger           = "NotOnLedger"
	ReasonInternalError         = "InternalError"
)
