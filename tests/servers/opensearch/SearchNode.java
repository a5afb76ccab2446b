import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.codelibs.opensearch.runner.node.OpenSearchRunnerNode;
import org.opensearch.common.settings.Settings;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.plugins.Plugin;

/** A node of OpenSearch, of version 2 or 3: `SearchNode NAME=SETTING...`; secured if it should have TLS. */
public class SearchNode {
    /** What the server is made of, without "Plugin" or, from version 3 on, "ModulePlugin". */
    private static final List<String> MODULES =
            List.of(
                    "org.opensearch.transport.Netty4",
                    "org.opensearch.painless.Painless",
                    "org.opensearch.analysis.common.CommonAnalysis",
                    "org.opensearch.index.reindex.Reindex",
                    "org.opensearch.index.mapper.MapperExtras");

    public static void main(String[] given) throws Exception {
        Settings.Builder settings = Settings.builder();
        for (String one : given) {
            String[] parts = one.split("=", 2);
            settings.put(parts[0], parts[1]);
        }
        List<Class<? extends Plugin>> plugins = new ArrayList<>();
        for (String module : MODULES) {
            plugins.add(plugin(module));
        }
        if (settings.get("plugins.security.ssl.http.enabled") != null) {
            plugins.add(
                    Class.forName("org.opensearch.security.OpenSearchSecurityPlugin")
                            .asSubclass(Plugin.class));
        }
        var environment =
                InternalSettingsPreparer.prepareEnvironment(
                        settings.build(), Map.of(), null, () -> "one");
        new OpenSearchRunnerNode(environment, plugins).start();
        Thread.currentThread().join();
    }

    private static Class<? extends Plugin> plugin(String module) throws ClassNotFoundException {
        try {
            return Class.forName(module + "ModulePlugin").asSubclass(Plugin.class);
        } catch (ClassNotFoundException older) {
            return Class.forName(module + "Plugin").asSubclass(Plugin.class);
        }
    }
}
