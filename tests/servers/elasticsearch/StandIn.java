import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.index.fielddata.ScriptDocValues;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.plugins.ScriptPlugin;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.script.DocReader;
import org.elasticsearch.script.FilterScript;
import org.elasticsearch.script.ScriptContext;
import org.elasticsearch.script.ScriptEngine;
import org.elasticsearch.script.ScriptedMetricAggContexts.CombineScript;
import org.elasticsearch.script.ScriptedMetricAggContexts.InitScript;
import org.elasticsearch.script.ScriptedMetricAggContexts.MapScript;
import org.elasticsearch.script.ScriptedMetricAggContexts.ReduceScript;
import org.elasticsearch.search.lookup.SearchLookup;

/**
 * What of Elasticsearch is not on Maven Central: the answer to `GET /`, and Painless. The scripts of
 * tomodex.indexes.elasticsearch are written again in Java here, told apart by the context they run in.
 * Elasticsearch 8 and 9 ask for the handler of the first in two ways: StandIn8.java and StandIn9.java.
 */
public abstract class StandIn extends Plugin implements ActionPlugin, ScriptPlugin {
    @Override
    public ScriptEngine getScriptEngine(Settings settings, Collection<ScriptContext<?>> contexts) {
        return new Engine();
    }

    static class Root extends BaseRestHandler {
        @Override
        public String getName() {
            return "root";
        }

        @Override
        public List<Route> routes() {
            return List.of(new Route(RestRequest.Method.GET, "/"));
        }

        @Override
        protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
            String text =
                    "{\"version\":{\"number\":\"" + Build.current().version() + "\"},"
                            + "\"tagline\":\"You Know, for Search\"}";
            return channel -> channel.sendResponse(
                    new RestResponse(RestStatus.OK, "application/json", text));
        }
    }

    static class Engine implements ScriptEngine {
        @Override
        public String getType() {
            return "painless";
        }

        @Override
        public Set<ScriptContext<?>> getSupportedContexts() {
            return Set.of(
                    InitScript.CONTEXT, MapScript.CONTEXT, CombineScript.CONTEXT,
                    ReduceScript.CONTEXT, FilterScript.CONTEXT);
        }

        @Override
        public <F> F compile(
                String name, String code, ScriptContext<F> context, Map<String, String> params) {
            if (context == InitScript.CONTEXT) {
                InitScript.Factory factory = Begin::new;
                return context.factoryClazz.cast(factory);
            }
            if (context == MapScript.CONTEXT) {
                MapScript.Factory factory =
                        (given, state, lookup) -> leaf -> new Collect(given, state, lookup, leaf);
                return context.factoryClazz.cast(factory);
            }
            if (context == CombineScript.CONTEXT) {
                CombineScript.Factory factory = Combine::new;
                return context.factoryClazz.cast(factory);
            }
            if (context == ReduceScript.CONTEXT) {
                boolean crowd = code.contains("planes");
                ReduceScript.Factory factory = (given, states) -> new Reduce(given, states, crowd);
                return context.factoryClazz.cast(factory);
            }
            FilterScript.Factory factory = (given, lookup) -> reader -> new Placed(given, lookup, reader);
            return context.factoryClazz.cast(factory);
        }
    }

    static class Begin extends InitScript {
        Begin(Map<String, Object> params, Map<String, Object> state) {
            super(params, state);
        }

        @Override
        @SuppressWarnings("unchecked")
        public void execute() {
            ((Map<String, Object>) getState()).put("keys", new HashSet<Long>());
        }
    }

    static class Collect extends MapScript {
        Collect(
                Map<String, Object> params,
                Map<String, Object> state,
                SearchLookup lookup,
                org.apache.lucene.index.LeafReaderContext leaf) {
            super(params, state, lookup, leaf);
        }

        @Override
        @SuppressWarnings("unchecked")
        public void execute() {
            ScriptDocValues<?> keys = getDoc().get(getParams().get("field"));
            if (keys.size() > 0) {
                ((Set<Long>) getState().get("keys")).add((Long) keys.get(0));
            }
        }
    }

    static class Combine extends CombineScript {
        Combine(Map<String, Object> params, Map<String, Object> state) {
            super(params, state);
        }

        @Override
        public Object execute() {
            return new ArrayList<>((Set<?>) getState().get("keys"));
        }
    }

    static class Reduce extends ReduceScript {
        private final boolean crowd;

        Reduce(Map<String, Object> params, List<Object> states, boolean crowd) {
            super(params, states);
            this.crowd = crowd;
        }

        @Override
        public Object execute() {
            Set<Long> all = new HashSet<>();
            for (Object keys : getStates()) {
                for (Object key : (List<?>) keys) {
                    all.add((Long) key);
                }
            }
            if (!crowd) {
                long sum = all.stream().mapToLong(Long::longValue).sum();
                return Map.of("count", all.size(), "sum", sum);
            }
            long[] planes = new long[32];
            for (long key : all) {
                for (int i = 0; key != 0; i++) {
                    long both = planes[i] & key;
                    planes[i] ^= key;
                    key = both;
                }
            }
            List<Long> counted = new ArrayList<>();
            for (long plane : planes) {
                counted.add(plane);
            }
            return Map.of("count", all.size(), "planes", counted);
        }
    }

    static class Placed extends FilterScript {
        Placed(Map<String, Object> params, SearchLookup lookup, DocReader reader) {
            super(params, lookup, reader);
        }

        @Override
        public boolean execute() {
            Map<?, ?> subject = role("subject");
            boolean all = "all".equals(subject.get("match"));
            for (Object name : (List<?>) subject.get("names")) {
                boolean found = shows(subject, name) && placed(name);
                if (found != all) {
                    return found;
                }
            }
            return all;
        }

        private boolean placed(Object name) {
            float b = number(name, "b");
            float t = number(name, "t");
            float room = ((Number) getParams().get("room")).floatValue();
            Object place = getParams().get("place");
            for (Object one : (List<?>) role("one").get("names")) {
                if (!shows(role("one"), one)) {
                    continue;
                }
                if ("above".equals(place) && number(one, "t") <= b + room) {
                    return true;
                }
                if ("below".equals(place) && t <= number(one, "b") + room) {
                    return true;
                }
                if (!"between".equals(place)) {
                    continue;
                }
                for (Object other : (List<?>) role("other").get("names")) {
                    if (shows(role("other"), other)
                            && (stretch(b, t, number(one, "t"), number(other, "b"), room)
                                    || stretch(b, t, number(other, "t"), number(one, "b"), room))) {
                        return true;
                    }
                }
            }
            return false;
        }

        private boolean stretch(float b, float t, float from, float to, float room) {
            return from <= to + room
                    && ((from <= b + room && t <= to + room)
                            || (from >= b - room && to - room <= t));
        }

        private boolean shows(Map<?, ?> asked, Object name) {
            return getDoc().containsKey("m." + name + ".b")
                    && getDoc().get("m." + name + ".b").size() > 0
                    && getDoc().get(asked.get("field")).contains(name)
                    && inside(asked, name, "v")
                    && inside(asked, name, "h");
        }

        private boolean inside(Map<?, ?> asked, Object name, String measure) {
            if (!(asked.get(measure) instanceof Map<?, ?> ends)) {
                return true;
            }
            double x = number(name, measure);
            for (Map.Entry<?, ?> end : ends.entrySet()) {
                double y = ((Number) end.getValue()).doubleValue();
                boolean fits =
                        switch ((String) end.getKey()) {
                            case "gt" -> x > y;
                            case "gte" -> x >= y;
                            case "lt" -> x < y;
                            default -> x <= y;
                        };
                if (!fits) {
                    return false;
                }
            }
            return true;
        }

        private Map<?, ?> role(String name) {
            return (Map<?, ?>) getParams().get(name);
        }

        private float number(Object name, String measure) {
            return ((Number) getDoc().get("m." + name + "." + measure).get(0)).floatValue();
        }
    }
}
