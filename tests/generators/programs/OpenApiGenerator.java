// Writes the requests by the classes that openapi-generator makes for java (library native).
import java.io.File;
import java.math.BigDecimal;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.openapitools.client.ApiClient;
import org.openapitools.client.model.*;

public class OpenApiGenerator {
  public static void main(String[] arguments) throws Exception {
    write("least", new GenerationOrder().requestId("order-1").prompt("a dancer"));
    List<List<BigDecimal>> points =
        new ArrayList<>(Collections.nCopies(16, List.of(new BigDecimal("0.5"), new BigDecimal("0.25"))));
    points.add(null);
    write("everything", new GenerationOrder().requestId("order-2").prompt("a fencer").negativePrompt("blurry")
        .preset(GenerationOrder.PresetEnum.QUALITY).width(1024).height(768).steps(30)
        .guidanceScale(new BigDecimal("6.5"))
        .guidanceStart(new BigDecimal("0.1")).guidanceEnd(new BigDecimal("0.8"))
        .guidanceRescale(new BigDecimal("0.7")).clipSkip(1).recipe("portrait")
        .sampler(GenerationOrder.SamplerEnum.EULER).seed(9007199254740000L).count(2)
        .controlScale(new BigDecimal("0.8")).controlStart(new BigDecimal("0.1")).controlEnd(new BigDecimal("0.9"))
        .adapter(new AdapterUse().name("ink").weight(new BigDecimal("0.7")))
        .output(new OutputOptions().format(OutputOptions.FormatEnum.WEBP).quality(85)).priority(7)
        .deadline(OffsetDateTime.parse("2027-01-31T12:00:00Z")).progress(GenerationOrder.ProgressEnum.STEPS)
        .putLabelsItem("campaign", "spring")
        .pose(new GenerationOrderPose(new PeoplePose().people(List.of(points)).format(PeoplePose.FormatEnum.COCO17))));
    write("stored", new GenerationOrder().requestId("order-3").prompt("a dancer").pose(new GenerationOrderPose(
        new SkeletonPose().image(new Picture(new StoredPicture().bucket("darkroom").key("studio/p.png"))))));
  }

  private static void write(String name, GenerationOrder order) throws Exception {
    ApiClient.createDefaultObjectMapper().writeValue(new File(name + ".json"), order);
  }
}
