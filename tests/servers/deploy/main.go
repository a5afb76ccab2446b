// Reads what deploy/ holds with the code of those who will read it in earnest: Helm, Kubernetes,
// Docker Compose and Prometheus. What one of them would refuse is said, and the exit code is 1.
//
//	deploycheck chart DIR VALUES...   renders the chart with each values file, and decodes strictly
//	deploycheck compose FILE...       loads the files as one project
//	deploycheck alerts FILE           checks a file of rules, and prints what its expressions select
//	deploycheck select                the same for PromQL, one expression a line of stdin
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	operator "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// The version whose interfaces the chart is rendered for.
const kubernetes = "v1.33.0"

func main() {
	// Helm tells of every symbolic link that it follows.
	log.SetOutput(io.Discard)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 2 && args[0] == "chart":
		return charts(args[1], args[2:])
	case len(args) > 1 && args[0] == "compose":
		return compose(args[1:])
	case len(args) == 2 && args[0] == "alerts":
		return alerts(args[1])
	case len(args) == 1 && args[0] == "select":
		return selections()
	}
	return errors.New("deploycheck chart DIR VALUES... | compose FILE... | alerts FILE | select")
}

// One rendered manifest, and which values it came of.
type manifest struct {
	Values   string          `json:"values"`
	Template string          `json:"template"`
	Object   json.RawMessage `json:"object"`
}

func charts(folder string, files []string) error {
	decoder, err := strictDecoder()
	if err != nil {
		return err
	}
	all := []manifest{}
	for _, file := range files {
		values, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := linted(folder, values); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		rendered, err := render(folder, values)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for template, text := range rendered {
			for _, one := range split(template, text) {
				asJSON, err := decoded(decoder, one)
				if err != nil {
					return fmt.Errorf("%s: %s: %w\n%s", file, template, err, one)
				}
				all = append(all, manifest{file, template, asJSON})
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// A manifest as JSON. KEDA's own types bring all of its controller with them, so that its objects are
// passed on as they are, and compared with its schema elsewhere.
func decoded(decoder runtime.Decoder, text string) ([]byte, error) {
	if strings.Contains(text, "\napiVersion: keda.sh/") || strings.HasPrefix(text, "apiVersion: keda.sh/") {
		return yaml.YAMLToJSONStrict([]byte(text))
	}
	object, _, err := decoder.Decode([]byte(text), nil, nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(object)
}

func strictDecoder() (runtime.Decoder, error) {
	if err := operator.AddToScheme(scheme.Scheme); err != nil {
		return nil, err
	}
	return serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer(), nil
}

func linted(folder string, values map[string]any) error {
	version := &chartutil.KubeVersion{Version: kubernetes, Major: "1", Minor: "33"}
	result := lint.AllWithKubeVersion(folder, values, "default", version)
	for _, message := range result.Messages {
		if message.Severity > support.InfoSev {
			return message
		}
	}
	return nil
}

func render(folder string, values map[string]any) (map[string]string, error) {
	chart, err := loader.Load(folder)
	if err != nil {
		return nil, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: kubernetes, Major: "1", Minor: "33"}
	release := chartutil.ReleaseOptions{Name: "test", Namespace: "imaging", Revision: 1, IsInstall: true}
	// Checks the values against values.schema.json too.
	all, err := chartutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

func split(template, text string) []string {
	found := []string{}
	if !strings.HasSuffix(template, ".yaml") {
		return found
	}
	for _, one := range strings.Split(text, "\n---") {
		for _, line := range strings.Split(one, "\n") {
			if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "#") && trimmed != "---" {
				found = append(found, strings.TrimPrefix(one, "---"))
				break
			}
		}
	}
	return found
}

func compose(files []string) error {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithDotEnv, cli.WithInterpolation(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// What an expression asks of one metric.
type selection struct {
	Expression string   `json:"expression"`
	Metric     string   `json:"metric"`
	Labels     []string `json:"labels"`
}

func alerts(file string) error {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	expressions := []string{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expressions = append(expressions, rule.Expr)
		}
	}
	return said(expressions)
}

func selections() error {
	expressions := []string{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		expressions = append(expressions, lines.Text())
	}
	return said(expressions)
}

func said(expressions []string) error {
	all := []selection{}
	for _, text := range expressions {
		expression, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		all = append(all, selected(text, expression)...)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// The metrics of an expression, each with the labels it is matched, grouped or joined by.
func selected(text string, expression parser.Expr) []selection {
	found := []selection{}
	parser.Inspect(expression, func(node parser.Node, path []parser.Node) error {
		vector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		labels := map[string]bool{}
		for _, matcher := range vector.LabelMatchers {
			if matcher.Name != model.MetricNameLabel {
				labels[matcher.Name] = true
			}
		}
		for _, above := range path {
			if group, ok := above.(*parser.AggregateExpr); ok && !group.Without {
				for _, name := range group.Grouping {
					labels[name] = true
				}
			}
		}
		names := []string{}
		for name := range labels {
			names = append(names, name)
		}
		sort.Strings(names)
		found = append(found, selection{text, vector.Name, names})
		return nil
	})
	return found
}
