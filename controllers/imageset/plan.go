package imageset

import (
	"context"
	"errors"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// plan finds out which images the set holds: what its lists say, and what the
// publisher finds by its rules and catalogs.
func (r *Reconciler) plan(ctx context.Context, s *imageSet) (time.Duration, error) {
	if err := r.loadArtifacts(ctx, s); err != nil {
		return 0, err
	}
	if s.listedOf != s.Generation || !s.Spec.Suspend && !r.Now().Before(s.listedAt.Add(s.interval())) {
		if err := r.ask(ctx, s); err != nil {
			return s.planFailed(err)
		}
	}
	s.planned = true
	r.want(s)
	s.Status.Plan = s.countPlan()
	status.SetDone(s, v1alpha1.ConditionPlanned, v1alpha1.ReasonPlanned, "It is known which images the set holds")
	return 0, nil
}

// loadArtifacts reads the set's Artifacts.
func (r *Reconciler) loadArtifacts(ctx context.Context, s *imageSet) error {
	own, err := r.own(ctx, s.OfficialImageSet)
	if err != nil {
		return err
	}
	own = slices.DeleteFunc(own, objects.IsLeaving)
	s.have = byImage(own)
	for _, art := range own {
		if art.Status.Block != nil {
			s.blocks++
			s.bytes += art.Status.Bytes
		}
	}
	return nil
}

// ask has the selection listed: by the publisher, if others than this set have
// to be asked.
func (r *Reconciler) ask(ctx context.Context, s *imageSet) error {
	selection := selectionOf(s.OfficialImageSet)
	list := explicit
	if selection.NeedsUpstream() {
		list = func(selection *control.Selection) ([]string, []v1alpha1.ImageFailure, error) {
			return r.list(ctx, s, selection)
		}
	}
	wanted, problems, err := list(selection)
	if err == nil {
		err = r.admit(ctx, s, len(wanted)+len(problems))
	}
	if err != nil {
		return err
	}
	s.wanted, s.problems = wanted, problems
	s.keep()
	s.listedAt, s.listedOf = r.Now(), s.Generation
	return nil
}

// list has the publisher list a selection.
func (r *Reconciler) list(ctx context.Context, s *imageSet, selection *control.Selection) (images []string, problems []v1alpha1.ImageFailure, err error) {
	var resp *control.ListResponse
	err = r.Nodes.AskPublisher(ctx, s.Namespace, s.Spec.PublisherRef.Name, nodeclient.ToPlan, func(ctx context.Context, _ *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		resp, err = c.List(ctx, control.ListRequest{Selection: *selection})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, image := range resp.Images {
		if parsed, err := ledger.ParseImage(image); err == nil && parsed.String() == image {
			images = append(images, image)
		}
	}
	for _, problem := range resp.Problems {
		problems = append(problems, v1alpha1.ImageFailure{
			Image: status.Bounded(problem.What, 512), Reason: nodeclient.ConditionReason(problem.Reason), Message: status.Bounded(problem.Message, status.MaxMessage),
		})
	}
	return images, problems, nil
}

// planFailed says why it is not known what the set holds. Until it is,
// everything stays as it is.
func (s *imageSet) planFailed(err error) (time.Duration, error) {
	const condition = v1alpha1.ConditionPlanned
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok {
		return nodeclient.NotAsked(s, condition, err)
	}
	s.listFailures++
	status.SetRefused(s, condition, nodeclient.ConditionReason(refusal.Reason), refusal.Message)
	if refusal.Permanent() {
		return 0, reconcile.TerminalError(refusal)
	}
	return max(backoff(s.listFailures), nodeclient.RetryAfter(refusal)), nil
}

func (s *imageSet) interval() time.Duration {
	if s.Spec.Interval != nil {
		return s.Spec.Interval.Duration
	}
	return defaultInterval
}

// selectionOf is the set's selection, as the publisher reads it.
func selectionOf(set *v1alpha1.OfficialImageSet) *control.Selection {
	s := &control.Selection{Exclude: set.Spec.Exclude}
	rules := func(r v1alpha1.TagRules) control.TagRules {
		return control.TagRules{Semver: r.Semver, Regexp: r.Regexp, Newest: int(r.Newest), Exclude: r.Exclude}
	}
	for _, i := range set.Spec.Images {
		s.Images = append(s.Images, control.ImageRule{Repository: i.Repository, Tags: i.Tags, TagRules: rules(i.TagRules)})
	}
	if c := set.Spec.Catalog; c != nil {
		s.Catalog = new(control.Catalog)
		if c.Archive != nil {
			s.Catalog.Archive = &control.Archive{URL: c.Archive.URL, SHA256: c.Archive.SHA256}
		}
		if c.DockerHub != nil {
			s.Catalog.DockerHub = &control.DockerHub{Namespace: c.DockerHub.Namespace, Endpoint: c.DockerHub.Endpoint, TagRules: rules(c.DockerHub.TagRules)}
		}
	}
	return s
}

// explicit are the images of a selection that is nothing but lists.
func explicit(s *control.Selection) (images []string, problems []v1alpha1.ImageFailure, err error) {
	seen := map[string]bool{}
	for _, i := range s.Images {
		for _, tag := range i.Tags {
			if len(images)+len(problems) > control.MaxImages {
				return nil, nil, control.TooManyImages()
			}
			name := i.Repository + ":" + tag
			image, err := ledger.ParseImage(name)
			if err != nil {
				problems = append(problems, v1alpha1.ImageFailure{Image: status.Bounded(name, 512), Reason: v1alpha1.ReasonInvalidImage, Message: status.Bounded(err.Error(), status.MaxMessage)})
				continue
			}
			if canonical := image.String(); !seen[canonical] && !image.Matches(s.Exclude) {
				seen[canonical] = true
				images = append(images, canonical)
			}
		}
	}
	return images, problems, nil
}

// keep holds on to the images of a repository that could not be listed now.
func (s *imageSet) keep() {
	unlisted := map[string]bool{}
	for _, problem := range s.problems {
		if image, err := ledger.ParseImage(problem.Image); err == nil {
			unlisted[image.Name()] = true
		}
	}
	if len(unlisted) == 0 {
		return
	}
	wanted := make(map[string]bool, len(s.wanted))
	for _, name := range s.wanted {
		wanted[name] = true
	}
	for name := range s.have {
		if image, err := ledger.ParseImage(name); err == nil && unlisted[image.Name()] && !wanted[name] {
			s.wanted = append(s.wanted, name)
		}
	}
}

func (s *imageSet) countPlan() *v1alpha1.Plan {
	repositories := map[string]bool{}
	plan := &v1alpha1.Plan{Images: int32(len(s.images))}
	for name := range s.images {
		if image, err := ledger.ParseImage(name); err == nil {
			repositories[image.Name()] = true
		}
		if !slices.ContainsFunc(s.have[name], func(a *v1alpha1.Artifact) bool { return a.Status.Block != nil }) {
			plan.New++
		}
	}
	plan.Repositories = int32(len(repositories))
	return plan
}
