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
func (r *Reconciler) plan(w *work) status.Step[*v1alpha1.OfficialImageSet] {
	return func(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
		if err := r.loadArtifacts(ctx, set, w); err != nil {
			return 0, err
		}
		now := r.Now()
		at := w.pass.listedAt.Add(interval(set))
		if w.pass.listedOf == set.Generation && (set.Spec.Suspend || now.Before(at)) {
			w.planned = true
		} else if err := r.ask(ctx, set, w); err != nil {
			return r.planFailed(set, w, err)
		}
		w.pass.want(set, w.have)
		set.Status.Plan = w.countPlan()
		status.SetDone(set, v1alpha1.ConditionPlanned, v1alpha1.ReasonPlanned, "It is known which images the set holds")
		return 0, nil
	}
}

// loadArtifacts reads the set's Artifacts, and what this process remembers of it.
func (r *Reconciler) loadArtifacts(ctx context.Context, set *v1alpha1.OfficialImageSet, w *work) error {
	own, err := r.own(ctx, set)
	if err != nil {
		return err
	}
	own = slices.DeleteFunc(own, objects.IsLeaving)
	w.have = byImage(own)
	for _, art := range own {
		if art.Status.Block != nil {
			w.blocks++
			w.bytes += art.Status.Bytes
		}
	}
	w.pass = r.passOf(set)
	return nil
}

// ask has the selection listed: by the publisher, if others than this set have
// to be asked.
func (r *Reconciler) ask(ctx context.Context, set *v1alpha1.OfficialImageSet, w *work) error {
	p := w.pass
	selection := selectionOf(set)
	list := explicit
	if selection.NeedsUpstream() {
		list = func(s *control.Selection) ([]string, []v1alpha1.ImageFailure, error) { return r.list(ctx, set, s) }
	}
	wanted, problems, err := list(selection)
	if err == nil {
		err = r.admit(ctx, set, p, len(wanted)+len(problems))
	}
	if err != nil {
		return err
	}
	p.wanted, p.problems = wanted, problems
	p.keep(w.have)
	p.listedAt, p.listedOf = r.Now(), set.Generation
	w.planned = true
	return nil
}

// list has the publisher list a selection.
func (r *Reconciler) list(ctx context.Context, set *v1alpha1.OfficialImageSet, s *control.Selection) (images []string, problems []v1alpha1.ImageFailure, err error) {
	var resp *control.ListResponse
	err = r.Nodes.AskPublisher(ctx, set.Namespace, set.Spec.PublisherRef.Name, nodeclient.ToPlan, func(ctx context.Context, _ *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		resp, err = c.List(ctx, control.ListRequest{Selection: *s})
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
func (r *Reconciler) planFailed(set *v1alpha1.OfficialImageSet, w *work, err error) (time.Duration, error) {
	const condition = v1alpha1.ConditionPlanned
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok {
		return nodeclient.NotAsked(set, condition, err)
	}
	w.pass.listFailures++
	status.SetRefused(set, condition, nodeclient.ConditionReason(refusal.Reason), refusal.Message)
	if refusal.Permanent() {
		return 0, reconcile.TerminalError(refusal)
	}
	return max(backoff(w.pass.listFailures), nodeclient.RetryAfter(refusal)), nil
}

func interval(set *v1alpha1.OfficialImageSet) time.Duration {
	if set.Spec.Interval != nil {
		return set.Spec.Interval.Duration
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
func (p *pass) keep(have map[string][]*v1alpha1.Artifact) {
	unlisted := map[string]bool{}
	for _, problem := range p.problems {
		if image, err := ledger.ParseImage(problem.Image); err == nil {
			unlisted[image.Name()] = true
		}
	}
	if len(unlisted) == 0 {
		return
	}
	wanted := make(map[string]bool, len(p.wanted))
	for _, name := range p.wanted {
		wanted[name] = true
	}
	for name := range have {
		if image, err := ledger.ParseImage(name); err == nil && unlisted[image.Name()] && !wanted[name] {
			p.wanted = append(p.wanted, name)
		}
	}
}

func (w *work) countPlan() *v1alpha1.Plan {
	repositories := map[string]bool{}
	plan := &v1alpha1.Plan{Images: int32(len(w.pass.images))}
	for name := range w.pass.images {
		if image, err := ledger.ParseImage(name); err == nil {
			repositories[image.Name()] = true
		}
		if !slices.ContainsFunc(w.have[name], func(a *v1alpha1.Artifact) bool { return a.Status.Block != nil }) {
			plan.New++
		}
	}
	plan.Repositories = int32(len(repositories))
	return plan
}
