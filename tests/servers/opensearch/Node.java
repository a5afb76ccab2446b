import java.util.List;
import java.util.Map;
import org.opensearch.analysis.common.CommonAnalysisPlugin;
import org.opensearch.common.settings.Settings;
import org.opensearch.index.mapper.MapperExtrasPlugin;
import org.opensearch.index.reindex.ReindexPlugin;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.painless.PainlessPlugin;
import org.opensearch.plugins.Plugin;
import org.opensearch.transport.Netty4Plugin;

/** OpenSearch with one node: `Node FOLDER HTTP_PORT TRANSPORT_PORT`. */
public class Node extends org.opensearch.node.Node {
    private static final List<Class<? extends Plugin>> PLUGINS =
            List.of(
                    Netty4Plugin.class,
                    PainlessPlugin.class,
                    CommonAnalysisPlugin.class,
                    ReindexPlugin.class,
                    MapperExtrasPlugin.class);

    private Node(Settings settings) {
        super(
                InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), null, () -> "one"),
                PLUGINS,
                false);
    }

    public static void main(String[] given) throws Exception {
        Settings settings =
                Settings.builder()
                        .put("path.home", given[0])
                        .put("http.port", given[1])
                        .put("transport.port", given[2])
                        .put("network.host", "127.0.0.1")
                        .put("discovery.type", "single-node")
                        .put("cluster.name", "tomodex-test")
                        .put("cluster.routing.allocation.disk.threshold_enabled", false)
                        .build();
        new Node(settings).start();
        Thread.currentThread().join();
    }
}
