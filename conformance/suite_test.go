// Package conformance runs the official Gateway API conformance suite, unchanged, against the API server of the current
// kubeconfig.
//
// It owns what upstream leaves to an implementation: the GatewayClass, the clients, the report. Every flag of the suite
// works as upstream documents it. Deliberately absent: any change to a test, a time-out or a manifest of the suite.
package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var (
	catalogue = flag.String("catalogue", "",
		"write the suite's tests, with their features and profiles, to this file as JSON and end")
	shuffle = flag.Int64("shuffle", 0, "run the tests in an order drawn from this seed; 0 for the suite's own order")
	routes  = flag.Int("unrelated-routes", 0, "HTTPRoutes of no test that are there from the start")

	controllerName = flag.String("controller-name", "weir.dev/gateway-controller",
		"controllerName of the GatewayClass, which is created if it is not there")
)

// classDeadline bounds the wait for the GatewayClass before the suite starts.
const classDeadline = 60 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	if *catalogue == "" {
		os.Exit(m.Run())
	}
	if err := writeCatalogue(*catalogue); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	useJSON(t, &options)
	ensureClass(t, &options)
	if options.ReportOutputPath != "" {
		who := options.Implementation
		require.True(t, who.Organization != "" && who.Project != "" && who.Version != "", "a report names its implementation")
	}
	cs, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	if *routes > 0 {
		served := serveUnrelated(t, options.Client, options.GatewayClassName, *routes)
		end := served.watch()
		// After the suite, its parallel tests included.
		defer func() {
			asked, failures := end()
			t.Logf("%d requests to unrelated routes while the suite ran", asked)
			require.Empty(t, failures, "unrelated routes while the suite ran")
			served.askAll(t)
		}()
	}
	ordered := order(tests.ConformanceTests, *shuffle)
	cs.Setup(t, ordered)
	// A group of its own: it ends when the suite's parallel tests have ended, which go on after Run returns.
	held := t.Run("suite", func(t *testing.T) {
		require.NoError(t, cs.Run(t, ordered))
	})
	if options.ReportOutputPath == "" {
		return
	}
	// The suite counts a parallel test as passed when it is queued, so only a run that held as a whole has a true report.
	require.True(t, held, "tests failed, so no report is written")
	report, err := cs.Report()
	require.NoError(t, err)
	// The suite lists its profiles in any order, and a missing contact as null, which the format does not have.
	slices.SortFunc(report.ProfileReports, func(a, b confv1.ProfileReport) int { return cmp.Compare(a.Name, b.Name) })
	if report.Contact == nil {
		report.Contact = []string{}
	}
	text, err := yaml.Marshal(report)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(options.ReportOutputPath, text, 0o644))
}

// order draws an order from the seed.
func order(all []suite.ConformanceTest, seed int64) []suite.ConformanceTest {
	ordered := slices.Clone(all)
	if seed != 0 {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		random.Shuffle(len(ordered), func(i, j int) { ordered[i], ordered[j] = ordered[j], ordered[i] })
	}
	return ordered
}

// useJSON makes clients that send JSON: without a content type controller-runtime sends some built-in kinds as protobuf,
// and what is tested here is the gateway, not an API server's choice of encodings.
func useJSON(t *testing.T, options *suite.ConformanceOptions) {
	options.RestConfig.ContentType = "application/json"
	// The suite polls, with a new client for each test; the default of 5 requests a second would be what is measured.
	options.RestConfig.QPS, options.RestConfig.Burst = -1, 0
	var err error
	options.Client, err = client.New(options.RestConfig, options.ClientOptions)
	require.NoError(t, err)
	options.Clientset, err = kubernetes.NewForConfig(options.RestConfig)
	require.NoError(t, err)
}

// ensureClass creates the GatewayClass if need be and waits until it is accepted: the suite reads the supported features
// from its status before it waits for anything.
func ensureClass(t *testing.T, options *suite.ConformanceOptions) {
	ctx := t.Context()
	class := &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: options.GatewayClassName},
		Spec:       gatewayv1.GatewayClassSpec{ControllerName: gatewayv1.GatewayController(*controllerName)},
	}
	if err := options.Client.Create(ctx, class); err != nil && !apierrors.IsAlreadyExists(err) {
		require.NoError(t, err, "creating the GatewayClass")
	}
	accepted := func(ctx context.Context) (bool, error) {
		if err := options.Client.Get(ctx, client.ObjectKeyFromObject(class), class); err != nil {
			return false, err
		}
		condition := meta.FindStatusCondition(class.Status.Conditions, string(gatewayv1.GatewayClassConditionStatusAccepted))
		return condition != nil && condition.Status == metav1.ConditionTrue &&
			condition.ObservedGeneration == class.Generation, nil
	}
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, classDeadline, true, accepted)
	require.NoError(t, err, "GatewayClass %s was not accepted by %s", class.Name, *controllerName)
}

// entry is one test of the suite as the catalogue tells it.
type entry struct {
	Name        string   `json:"name"`
	Features    []string `json:"features"`
	Provisional bool     `json:"provisional"`
	Parallel    bool     `json:"parallel"`
	Mesh        bool     `json:"mesh"`
	// Experimental tells that a feature of the test is in the experimental channel only.
	Experimental bool `json:"experimental"`
	// Profiles that count the test, as "core" or "extended".
	Profiles map[string]string `json:"profiles"`
}

// catalogueFile is what the catalogue's file holds.
type catalogueFile struct {
	Tests []entry `json:"tests"`
	// MeshFeatures are those that no gateway claims.
	MeshFeatures []string `json:"meshFeatures"`
}

// profiles are the suite's profiles for gateways.
var profiles = []suite.ConformanceProfile{
	suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile,
	suite.GatewayTLSConformanceProfile,
	suite.GatewayTCPConformanceProfile,
	suite.GatewayUDPConformanceProfile,
}

func writeCatalogue(path string) error {
	mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	file := catalogueFile{}
	for _, name := range mesh.UnsortedList() {
		file.MeshFeatures = append(file.MeshFeatures, string(name))
	}
	slices.Sort(file.MeshFeatures)
	experimental := map[features.FeatureName]bool{}
	for feature := range features.AllFeatures {
		experimental[feature.Name] = feature.Channel == features.FeatureChannelExperimental
	}
	for _, test := range tests.ConformanceTests {
		told := entry{
			Name:        test.ShortName,
			Provisional: test.Provisional,
			Parallel:    test.Parallel,
			Mesh:        mesh.HasAny(test.Features...),
			Profiles:    map[string]string{},
		}
		for _, feature := range test.Features {
			told.Features = append(told.Features, string(feature))
			told.Experimental = told.Experimental || experimental[feature]
		}
		for _, profile := range profiles {
			switch {
			case profile.CoreFeatures.HasAll(test.Features...):
				told.Profiles[string(profile.Name)] = "core"
			case profile.CoreFeatures.Union(profile.ExtendedFeatures).HasAll(test.Features...):
				told.Profiles[string(profile.Name)] = "extended"
			}
		}
		file.Tests = append(file.Tests, told)
	}
	if len(file.Tests) == 0 {
		return errors.New("the suite has no tests")
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
