package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

const (
	operatorArtifacts = 500
	tagsPerSet        = 100
	settleFor         = 20 * time.Second
	steadyFor         = time.Minute
)

func operatorBenchmarks() []benchmark {
	return []benchmark{{rows: []string{"operator-idle-writes", "operator-rss", "operator-cpu"}, run: benchOperator}}
}

// benchOperator has the operator run a publisher and two mirrors until 500
// Artifacts are Ready, and then looks at a minute in which nothing changes.
func benchOperator(ctx context.Context, dir string) (_ []row, err error) {
	upstream := httptest.NewServer(manyTags(operatorArtifacts))
	defer upstream.Close()
	s, err := startStage(ctx, dir, upstream.URL)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, name := range []string{"mirror-1", "mirror-2"} {
		mirror := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		mirror.Spec.Role = v1alpha1.RoleMirror
		mirror.Spec.Network = &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
		if err := s.startNode(ctx, mirror); err != nil {
			return nil, fmt.Errorf("starting %s: %w", name, err)
		}
	}
	if err := publishTags(ctx, s, operatorArtifacts); err != nil {
		return nil, err
	}
	time.Sleep(settleFor)
	return steady(ctx, s)
}

// manyTags is a registry with so many tags of one repository.
func manyTags(n int) *upstreamtest.Registry {
	r := upstreamtest.New()
	for i := range n {
		name := fmt.Sprint("image ", i)
		r.Tag("library/app", fmt.Sprint(i), r.AddIndex(r.AddImage(upstreamtest.OfficialPlatform("amd64"), name, []byte(name))))
	}
	return r
}

// publishTags has the tags published and mirrored.
func publishTags(ctx context.Context, s *stage, tags int) error {
	for first := 0; first < tags; first += tagsPerSet {
		set := &v1alpha1.OfficialImageSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("images-", first)}}
		set.Spec.PublisherRef.Name = "publisher"
		set.Spec.Interval = &metav1.Duration{Duration: time.Hour}
		image := v1alpha1.ImageTags{Repository: "app"}
		for i := first; i < min(first+tagsPerSet, tags); i++ {
			image.Tags = append(image.Tags, fmt.Sprint(i))
		}
		set.Spec.Images = []v1alpha1.ImageTags{image}
		if err := s.Create(ctx, set); err != nil {
			return err
		}
	}
	return await(ctx, 8*time.Minute, func() error {
		list := new(v1alpha1.ArtifactList)
		if err := s.List(ctx, list); err != nil {
			return err
		}
		done := 0
		for _, a := range list.Items {
			if ready(a.Status.Conditions) == nil {
				done++
			}
		}
		if done != tags {
			return fmt.Errorf("%d of %d Artifacts are ready", done, tags)
		}
		return nil
	})
}

// steady measures a minute in which nothing changes.
func steady(ctx context.Context, s *stage) ([]row, error) {
	pid := s.operator.Process.Pid
	writes, err1 := s.writes(ctx)
	used, err2 := cpu(pid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	time.Sleep(steadyFor)
	writesAfter, err1 := s.writes(ctx)
	usedAfter, err2 := cpu(pid)
	rss, err3 := processMemory(strconv.Itoa(pid), "VmRSS:")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	perMinute := writesAfter - writes
	percent := (usedAfter - used) / steadyFor.Seconds() * 100
	const against = "3 PyrsiaNodes, 500 Artifacts, a minute in which nothing changes"
	return []row{
		{Name: "operator-idle-writes", Value: perMinute, Unit: "per minute", Against: against, Ratio: perMinute, target: "0"},
		{Name: "operator-rss", Value: rss / 1e6, Unit: "MB", Against: against, Ratio: rss / 1e6 / 80, target: "< 80 MB"},
		{Name: "operator-cpu", Value: percent, Unit: "% of a core", Against: against, Ratio: percent, target: "< 1 %"},
	}, nil
}
