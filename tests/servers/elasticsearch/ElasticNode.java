import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginBundle;
import org.elasticsearch.plugins.PluginsLoader;

/** Elasticsearch 8 or 9 with one node: `ElasticNode HOME NAME=SETTING...`, its modules in HOME/modules. */
public class ElasticNode {
    public static void main(String[] given) throws Exception {
        Settings.Builder settings = Settings.builder().put("path.home", given[0]);
        for (int i = 1; i < given.length; i++) {
            String[] parts = given[i].split("=", 2);
            settings.put(parts[0], parts[1]);
        }
        LogConfigurator.configureWithoutConfig(settings.build());
        Environment environment =
                InternalSettingsPreparer.prepareEnvironment(
                        settings.build(), Map.of(), Path.of(given[0], "config"), () -> "one");
        var modules = modules(Path.of(given[0], "modules"));
        new Node(environment, PluginsLoader.createPluginsLoader(modules, Set.of(), Map.of())).start();
        Thread.currentThread().join();
    }

    /** What lies in a folder; Elasticsearch 9 wants to know more to find it than 8 does. */
    @SuppressWarnings("unchecked")
    private static Set<PluginBundle> modules(Path folder) throws Exception {
        for (Method method : PluginsLoader.class.getMethods()) {
            if (method.getName().equals("loadModulesBundles")) {
                Object[] all = {folder, false};
                Object[] some = Arrays.copyOf(all, method.getParameterCount());
                return (Set<PluginBundle>) method.invoke(null, some);
            }
        }
        throw new IllegalStateException("this Elasticsearch finds its modules in another way");
    }
}
