// Writes the requests by the classes that quicktype makes. They write null for whatever is not set.
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import models.*;

public class Quicktype {
  public static void main(String[] arguments) throws Exception {
    write("least", request("order-1", "a dancer"));

    GenerationRequest everything = request("order-2", "a fencer");
    everything.setTenant("studio");
    everything.setNegativePrompt("blurry");
    everything.setPreset(Preset.QUALITY);
    everything.setWidth(1024L);
    everything.setHeight(768L);
    everything.setSteps(30L);
    everything.setGuidanceScale(6.5);
    everything.setGuidanceStart(0.1);
    everything.setGuidanceEnd(0.8);
    everything.setGuidanceRescale(0.7);
    everything.setClipSkip(1L);
    everything.setRecipe("portrait");
    everything.setSampler(Sampler.EULER);
    everything.setSeed(9007199254740000L);
    everything.setCount(2L);
    everything.setControlScale(0.8);
    everything.setControlStart(0.1);
    everything.setControlEnd(0.9);
    AdapterUse adapter = new AdapterUse();
    adapter.setName("ink");
    adapter.setWeight(0.7);
    everything.setAdapter(adapter);
    OutputOptions output = new OutputOptions();
    output.setFormat(OutputOptionsFormat.WEBP);
    output.setQuality(85L);
    everything.setOutput(output);
    everything.setPriority(7L);
    everything.setDeadline(OffsetDateTime.parse("2027-01-31T12:00:00Z"));
    everything.setProgress(Progress.STEPS);
    everything.setLabels(Map.of("campaign", "spring"));
    Pose people = new Pose();
    List<List<Double>> points = new ArrayList<>(Collections.nCopies(16, List.of(0.5, 0.25)));
    points.add(null);
    people.setPeople(List.of(points));
    people.setFormat(PeoplePoseFormat.COCO17);
    everything.setPose(people);
    write("everything", everything);

    GenerationRequest stored = request("order-3", "a dancer");
    Picture picture = new Picture();
    picture.setBucket("darkroom");
    picture.setKey("studio/p.png");
    Pose pose = new Pose();
    pose.setImage(picture);
    stored.setPose(pose);
    write("stored", stored);
  }

  private static GenerationRequest request(String id, String prompt) {
    GenerationRequest request = new GenerationRequest();
    request.setRequestID(id);
    request.setPrompt(prompt);
    return request;
  }

  private static void write(String name, GenerationRequest request) throws Exception {
    Files.writeString(Path.of(name + ".json"), Converter.toJsonString(request));
  }
}
