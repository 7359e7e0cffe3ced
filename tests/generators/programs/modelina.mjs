// Generates models with Modelina: node modelina.mjs DOCUMENT ts|java FOLDER
import { JAVA_JACKSON_PRESET, JavaGenerator, TypeScriptGenerator } from "@asyncapi/modelina";
import fs from "node:fs";

const [document, language, folder] = process.argv.slice(2);
const input = JSON.parse(fs.readFileSync(document, "utf-8"));
const models = language === "ts"
  ? await new TypeScriptGenerator({ modelType: "interface", rawPropertyNames: true, mapType: "record", enumType: "union" })
    .generateCompleteModels(input, { moduleSystem: "ESM", exportType: "named" })
  : await new JavaGenerator({ collectionType: "List", presets: [JAVA_JACKSON_PRESET] })
    .generateCompleteModels(input, { packageName: "models" });
// Unions have a model without a name for their null.
for (const model of models.filter((one) => one.modelName)) {
  fs.writeFileSync(`${folder}/${model.modelName}.${language}`, model.result);
}
