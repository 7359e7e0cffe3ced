// Writes the requests by the classes that Modelina makes.
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.datatype.jsr310.JavaTimeModule;
import java.io.File;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import models.*;

public class Modelina {
  public static void main(String[] arguments) throws Exception {
    ObjectMapper mapper = new ObjectMapper().registerModule(new JavaTimeModule())
        .disable(SerializationFeature.WRITE_DATES_AS_TIMESTAMPS);
    mapper.writeValue(new File("least.json"), request("order-1", "a dancer"));

    GenerationRequest everything = request("order-2", "a fencer");
    everything.setTenant("studio");
    everything.setNegativePrompt("blurry");
    everything.setPreset("quality");
    everything.setWidth(1024);
    everything.setHeight(768);
    everything.setSteps(30);
    everything.setGuidanceScale(6.5);
    everything.setGuidanceStart(0.1);
    everything.setGuidanceEnd(0.8);
    everything.setGuidanceRescale(0.7);
    everything.setClipSkip(1);
    everything.setRecipe("portrait");
    everything.setSampler("euler");
    everything.setSeed(9007199254740000L);
    everything.setCount(2);
    everything.setControlScale(0.8);
    everything.setControlStart(0.1);
    everything.setControlEnd(0.9);
    AdapterUse adapter = new AdapterUse();
    adapter.setName("ink");
    adapter.setWeight(0.7);
    everything.setAdapter(adapter);
    OutputOptions output = new OutputOptions();
    output.setFormat("webp");
    output.setQuality(85);
    everything.setOutput(output);
    everything.setPriority(7);
    everything.setDeadline(OffsetDateTime.parse("2027-01-31T12:00:00Z"));
    everything.setProgress("steps");
    everything.setLabels(Map.of("campaign", "spring"));
    PeoplePose people = new PeoplePose();
    List<Object> points = new ArrayList<>(Collections.nCopies(16, List.of(0.5, 0.25)));
    points.add(null);
    people.setPeople(List.of(points));
    people.setFormat("coco17");
    everything.setPose(people);
    mapper.writeValue(new File("everything.json"), everything);

    GenerationRequest stored = request("order-3", "a dancer");
    StoredPicture picture = new StoredPicture();
    picture.setBucket("darkroom");
    picture.setKey("studio/p.png");
    SkeletonPose pose = new SkeletonPose();
    pose.setImage(picture);
    stored.setPose(pose);
    mapper.writeValue(new File("stored.json"), stored);
  }

  private static GenerationRequest request(String id, String prompt) {
    GenerationRequest request = new GenerationRequest();
    request.setRequestId(id);
    request.setPrompt(prompt);
    return request;
  }
}
