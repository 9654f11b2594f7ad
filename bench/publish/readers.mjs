// One GGUF file in node-llama-cpp, for readers.py: texts to tokens, conversations to prompts and greedy answers.
//   node readers.mjs FILE [jinja] < {"texts": [...], "conversations": [[{"role", "content"}]], "limit": 128, "context": 256}
// node-llama-cpp is found from the current folder: npm install --ignore-scripts node-llama-cpp
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const {getLlama, LlamaChatSession, JinjaTemplateChatWrapper, resolveChatWrapper} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const {version} = JSON.parse(readFileSync("node_modules/node-llama-cpp/package.json", "utf8"));

const asked = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: process.argv[2]});
const wrapper = () => process.argv[3]
    ? new JinjaTemplateChatWrapper({template: model.fileInfo.metadata.tokenizer.chat_template})
    : resolveChatWrapper(model);
const found = {version, tokens: asked.texts.map((text) => Array.from(model.tokenize(text, true))), answers: [], wrapper: ""};
for (const turns of asked.conversations) {
    const context = await model.createContext({contextSize: asked.context, threads: 1});
    const session = new LlamaChatSession({contextSequence: context.getSequence(), chatWrapper: wrapper()});
    session.setChatHistory(turns.slice(0, -1).map(item));
    const answer = await session.promptWithMeta(turns.at(-1).content, {temperature: 0, maxTokens: asked.limit});
    found.answers.push({text: answer.responseText, ended: answer.stopReason === "eogToken"});
    found.wrapper = session.chatWrapper.wrapperName;
    await context.dispose();
}
process.stdout.write(JSON.stringify(found) + "\n");
await llama.dispose();

function item({role, content}) {
    return role === "assistant" ? {type: "model", response: [content]} : {type: role, text: content};
}
