package imageset

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// maxFailures bounds status.failures.
const maxFailures = 20

// count counts the images that are published, and sets the conditions.
func (r *Reconciler) count(_ context.Context, s *imageSet) (time.Duration, error) {
	if !s.planned {
		return 0, nil // the counts of before stand
	}
	unresolved := s.unresolved()
	failures := slices.Clone(unresolved)
	published, failed := 0, len(s.problems)
	for image, i := range s.images {
		art := find(s.have[image], i.digest)
		switch {
		case art != nil && art.Spec.State == v1alpha1.StateRevoked:
			failed++
			failures = append(failures, v1alpha1.ImageFailure{Image: image, Reason: v1alpha1.ReasonRevoked,
				Message: "the digest that the tag points to is revoked: wait for the upstream to move the tag, or take the image out"})
		case art != nil && status.IsTrue(art, v1alpha1.ConditionReady):
			published++
		case i.failure != nil:
			failed++
		case art != nil:
			if f := artifactFailure(art); f != nil {
				failed++
				failures = append(failures, *f)
			}
		}
	}
	desired := len(s.images) + len(s.problems)
	out := &s.Status
	out.Desired, out.Published, out.Failed = int32(desired), int32(published), int32(failed)
	out.Pending = int32(desired - published - failed)
	out.Blocks, out.Bytes, out.RateLimit = s.blocks, s.bytes, s.rateLimit
	slices.SortFunc(failures, func(a, b v1alpha1.ImageFailure) int { return cmp.Compare(a.Image, b.Image) })
	out.Failures = uniqueFailures(failures)
	if s.Spec.Mode == v1alpha1.SetModePlan {
		return 0, nil
	}
	s.judgeResolved(unresolved)
	s.judgePublished()
	s.progress(r.Now())
	keepSteady(&s.before.Status, out)
	return 0, nil
}

// uniqueFailures are the first failures, one for each image.
func uniqueFailures(sorted []v1alpha1.ImageFailure) []v1alpha1.ImageFailure {
	out := slices.CompactFunc(sorted, func(a, b v1alpha1.ImageFailure) bool { return a.Image == b.Image })
	return out[:min(len(out), maxFailures)]
}

// speed measures how fast images are published.
type speed struct {
	since     time.Time
	published int32 // at that time
}

// progress says how much is done, and when all will be.
func (s *imageSet) progress(now time.Time) {
	out := &s.Status
	out.Progress, out.ETA = "100%", nil
	if out.Desired > 0 {
		out.Progress = fmt.Sprintf("%d%%", int64(out.Published)*100/int64(out.Desired))
	}
	if out.Pending == 0 {
		s.speed = speed{}
		return
	}
	if s.speed.since.IsZero() || out.Published < s.speed.published {
		s.speed = speed{now, out.Published}
	}
	done, took := out.Published-s.speed.published, now.Sub(s.speed.since)
	if done > 0 && took >= 10*time.Second {
		left := time.Duration(float64(took) * float64(out.Pending) / float64(done))
		out.ETA = new(metav1.NewTime(now.Add(min(left, 1000*time.Hour)).Truncate(10 * time.Second)))
	}
}

// keepSteady leaves what changes with each pass as it was, unless something
// else is to be written: a set whose images do not move writes nothing.
func keepSteady(before, after *v1alpha1.OfficialImageSetStatus) {
	steady := func(s *v1alpha1.OfficialImageSetStatus) *v1alpha1.OfficialImageSetStatus {
		s = s.DeepCopy()
		s.LastResolvedTime, s.RateLimit, s.ETA = nil, nil, nil
		for i := range s.Failures {
			s.Failures[i].NextTry = nil
		}
		return s
	}
	if before.LastResolvedTime != nil && equality.Semantic.DeepEqual(steady(before), steady(after)) {
		before.DeepCopyInto(after)
	}
}

// artifactFailure is why an Artifact is not published; nil while it is under way.
func artifactFailure(art *v1alpha1.Artifact) *v1alpha1.ImageFailure {
	ready := meta.FindStatusCondition(art.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse {
		return nil
	}
	return &v1alpha1.ImageFailure{Image: art.Spec.Image, Reason: ready.Reason, Message: status.Bounded(ready.Message, status.MaxMessage)}
}

// judgeResolved sets Resolved from what is known of the images.
func (s *imageSet) judgeResolved(failures []v1alpha1.ImageFailure) {
	const condition = v1alpha1.ConditionResolved
	if s.notAsked {
		return
	}
	if len(failures) > 0 {
		reason, message := failures[0].Reason, fmt.Sprintf("%s: %s", failures[0].Image, failures[0].Message)
		if slices.ContainsFunc(failures, func(f v1alpha1.ImageFailure) bool { return f.Reason != reason }) {
			reason = v1alpha1.ReasonResolveFailed
		}
		if more := len(failures) - 1; more > 0 {
			message = fmt.Sprintf("%s (and %d more: see status.failures)", status.Bounded(message, status.MaxMessage-64), more)
		}
		status.SetFailed(s, condition, reason, message)
		return
	}
	for _, i := range s.images {
		if i.digest != "" {
			continue
		}
		if s.Spec.Suspend {
			status.SetWaiting(s, condition, v1alpha1.ReasonSuspended, "spec.suspend is true: tags are not resolved")
		} else {
			status.SetWaiting(s, condition, v1alpha1.ReasonResolving, "asking the upstream registry for the digests of the tags")
		}
		return
	}
	status.SetDone(s, condition, v1alpha1.ReasonResolved, "All tags are resolved to digests")
}

// unresolved are the images that could not be resolved, by name.
func (s *imageSet) unresolved() []v1alpha1.ImageFailure {
	out := slices.Clone(s.problems)
	for _, image := range slices.Sorted(maps.Keys(s.images)) {
		if f := s.images[image].failure; f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// judgePublished sets Published from the counts.
func (s *imageSet) judgePublished() {
	const condition = v1alpha1.ConditionPublished
	published, desired := s.Status.Published, s.Status.Desired
	switch {
	case published == desired:
		status.SetDone(s, condition, v1alpha1.ReasonPublished, "All images are published, verified and mirrored")
	case s.Status.Failed > 0:
		status.SetFailed(s, condition, v1alpha1.ReasonImagesFailed, fmt.Sprintf("%d of %d images are published; see status.failures", published, desired))
	default:
		status.SetWaiting(s, condition, v1alpha1.ReasonPublishing, fmt.Sprintf("%d of %d images are published", published, desired))
	}
}
