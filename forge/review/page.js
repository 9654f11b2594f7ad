"use strict";
// One page, no framework. Text from the corpus is only ever set as text, never as markup.
const CSRF = "%CSRF%";
const $ = (id) => document.getElementById(id);
const FACETS = {bucket: "Bucket", subtopic: "Subtopic", document: "Document", split: "Split", reason: "Reason", decision: "Decision"};
const LISTS = {pairs: "Pairs", rows: "Rows", refused: "Refused", dropped: "Dropped", poisoned: "Poisoned"};
const TABS = {plan: "Plan", ...LISTS, money: "Money", decisions: "Decisions"};
const PAGE = 25;
let state = null, tab = "plan", list = {items: [], total: 0}, here = -1, editing = "", ended = false, request = 0;
const views = {};
for (const kind in LISTS) views[kind] = {facets: {}, q: "", offset: 0, sample: kind === "pairs"};

history.replaceState(null, "", "/");   // the token has served; it must not stay in the address bar

// --- talking to the server ------------------------------------------------------------------------------------

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json", "X-Forge-Review": CSRF},
  };
  let answer;
  try { answer = await fetch(path, {credentials: "same-origin", cache: "no-store", ...options}); }
  catch { throw new Error("forge review has ended; start it again to go on"); }
  const found = await answer.json();
  if (!answer.ok) throw new Error([found.error, found.why].filter(Boolean).join(": "));
  return found;
}

async function refresh() {
  state = await ask("/api/state");
  drawFrame();
  if (state.remake && state.remake.running) setTimeout(() => guard(afterTick), 600);
}

async function afterTick() {
  await refresh();
  if (!state.remake.running) {
    say(state.remake.error ? "The plan could not be made again" : "The plan was made again");
    await open(tab);
  }
}

async function loadList() {
  const view = views[tab], mine = ++request;
  const query = new URLSearchParams({kind: tab, offset: view.offset, limit: PAGE, q: view.q, ...view.facets});
  if (view.sample) query.set("sample", "1");
  const found = await ask("/api/items?" + query);
  if (mine !== request) return;   // a later one is under way
  list = found;
  here = Math.min(here, list.items.length - 1);
  drawList();
}

async function guard(work) {
  try { return await work(); }
  catch (error) { if (!ended) { say(error.message); banner("bad", error.message); } }
}

// --- building the page ----------------------------------------------------------------------------------------

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const say = (text) => { $("spoken").textContent = ""; setTimeout(() => { $("spoken").textContent = text; }, 30); };
const usd = (micro) => "$" + (micro / 1e6 === 0 || micro >= 1e4 ? (micro / 1e6).toFixed(2) : (micro / 1e6).toFixed(6));
const number = (value) => value === null || value === undefined ? "–" : Number(Number(value).toPrecision(4)).toLocaleString("en");
const count = (value) => Number(value).toLocaleString("en");
const words = (name) => name.replaceAll("_", " ");
const badge = (kind, text) => el("span", {class: "badge " + kind}, text ?? kind);

function table(head, rows) {
  const line = (cells, tag) => el("tr", {}, cells.map((cell, i) => el(tag, {class: head[i][1], scope: tag === "th" ? "col" : null}, cell)));
  return el("div", {class: "scroll"}, el("table", {}, el("thead", {}, line(head.map((h) => h[0]), "th")), el("tbody", {}, rows.map((row) => line(row, "td")))));
}

const shown = ([name]) => name !== "rows" || state.counts.rows > 0;   // only where the data came ready-made

function banner(kind, text, ...more) {
  const box = $("banner");
  box.className = "banner " + kind;
  box.hidden = !text;
  box.replaceChildren(...(text ? [el("span", {}, text), ...more] : []));
}

function drawFrame() {
  const plan = state.plan, made = state.decisions;
  document.title = `Review ${state.run} · slm-forge`;
  $("title").textContent = plan ? plan.plan.name : `Run ${state.run}`;
  $("subtitle").replaceChildren(
    `run ${state.run} · ${state.corpus}${state.dry_run ? " · rehearsal" : ""}`,
    ...(plan ? [" · plan ", el("span", {class: "mono", id: "plan-hash"}, plan.short), plan.approved ? " · approved" : "", plan.edited ? " · edited by hand" : ""] : [" · no plan yet"]));
  $("tabs").replaceChildren(...Object.entries(TABS).filter(shown).map(([name, label]) => {
    const total = name in LISTS ? state.counts[name] : name === "decisions" ? made.taken : null;
    return el("button", {type: "button", id: "tab-" + name, "aria-current": tab === name ? "page" : null, on: {click: () => guard(() => open(name))}},
      label + (total === null ? "" : ` ${count(total)}`));
  }));
  const running = state.remake && state.remake.running;
  const decided = [[made.rejected, "rejected"], [made.edited, "edited"]].filter(([n]) => n).map(([n, word]) => `${count(n)} ${word}`).join(", ");
  const again = el("button", {type: "button", id: "remake", class: "main", on: {click: () => guard(remake)}}, "Make the plan again");
  if (running) {
    const bar = el("progress", {"aria-label": "progress of the plan"});
    if (state.remake.share !== null) { bar.max = 1; bar.value = state.remake.share; }
    banner("waits", `Making the plan again: ${state.remake.phase} ${state.remake.text}`, bar);
  } else if (state.busy) banner("waits", "Another forge works on this run; decisions have to wait.");
  else if (state.remake && state.remake.error) banner("bad", [state.remake.error.fact, state.remake.error.why, state.remake.error.next && "next: " + state.remake.error.next].filter(Boolean).join(" · "), again);
  else if (state.outdated) banner("waits", `${decided || "Something changed"}: the plan must be made again before it can be approved (${state.outdated}).`, again);
  else if (plan && plan.approved) banner("good", "This plan is approved.");
  else banner("", "");
  $("approve").disabled = !plan || Boolean(running) || state.busy || Boolean(state.outdated) || plan.approved;
  $("approve").title = state.outdated ? "the plan must be made again first" : "";
  $("close-run").disabled = Boolean(running) || state.busy;
}

async function open(name) {
  if (name !== tab) { here = -1; editing = ""; }
  tab = name;
  drawFrame();
  if (name in LISTS) { $("main").replaceChildren(el("div", {id: "tools"}), el("div", {id: "list"})); drawTools(); await loadList(); }
  else $("main").replaceChildren(...{plan: drawPlan, money: drawMoney, decisions: drawDecisions}[name]());
}

// --- plan and money -------------------------------------------------------------------------------------------

function interval(verdict) {
  const values = [verdict.estimate, verdict.threshold, ...(verdict.ci || [])].filter((v) => v !== null && v !== undefined);
  if (verdict.estimate === null || !values.length) return el("span", {class: "soft"}, "not measured");
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * .12 || Math.abs(high) * .12 || 1;
  const x = (v) => (4 + 136 * (v - low + room) / (high - low + 2 * room)).toFixed(1);
  const text = `${words(verdict.name)}: ${number(verdict.estimate)}${verdict.ci ? `, interval ${number(verdict.ci[0])} to ${number(verdict.ci[1])}` : ""}${verdict.threshold === null ? "" : `, limit ${number(verdict.threshold)}`}`;
  const drawing = svg("svg", {class: "interval", viewBox: "0 0 144 26", role: "img", "aria-label": text});
  drawing.append(svg("line", {class: "axis", x1: 2, x2: 142, y1: 13, y2: 13}));
  if (verdict.ci) drawing.append(svg("line", {class: "whisker " + verdict.outcome, x1: x(verdict.ci[0]), x2: x(verdict.ci[1]), y1: 13, y2: 13}));
  if (verdict.threshold !== null) drawing.append(svg("line", {class: "limit", x1: x(verdict.threshold), x2: x(verdict.threshold), y1: 3, y2: 23}));
  drawing.append(svg("circle", {class: "dot " + verdict.outcome, cx: x(verdict.estimate), cy: 13, r: 4}));
  return drawing;
}

function facts(rows) { return el("dl", {class: "facts"}, rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])); }

function drawPlan() {
  if (!state.plan) return [el("section", {}, el("h2", {}, "No plan yet"), el("p", {}, "Pairs can be reviewed already; the plan is made by forge resume."))];
  const plan = state.plan.plan, tally = (outcome) => plan.verdicts.filter((v) => v.outcome === outcome).length;
  const parts = [el("section", {"aria-labelledby": "h-plan"}, el("h2", {id: "h-plan"}, plan.name), facts([
    ["model", `${plan.architecture}, ${count(plan.parameters)} parameters, ${plan.precision}`], ["base", `${plan.base}, licence ${plan.base_license}`],
    ["training", `LoRA rank ${plan.lora.rank}, ${count(plan.lora.steps)} steps, ${number(plan.lora.epochs)} epochs, learning rate ${plan.lora.learning_rate}`],
    ["machine", `${plan.provider} ${plan.offer} at $${plan.usd_per_hour.toFixed(2)}/h, ends itself after ${Math.round(plan.deadline_seconds / 60)} min${plan.usd_per_hour ? `, $${plan.worst_usd.toFixed(2)} at worst` : ""}`],
    ["cost to come", `$${plan.cost_p50_usd.toFixed(2)} (P90 $${plan.cost_p90_usd.toFixed(2)}) of a cap of $${plan.budget_usd.toFixed(2)}`],
    ["teacher", plan.teacher || "nobody"], ["files", plan.quantizations.join(", ")], ["goes to", `${plan.hub} (${plan.visibility})`],
    ["system prompt", plan.system_prompt], ["out of scope", plan.abstention], ["plan", el("span", {class: "mono"}, state.plan.sha256)],
  ]))];
  parts.push(el("section", {"aria-labelledby": "h-checks"}, el("h2", {id: "h-checks"}, "Checks "),
    el("p", {}, ["pass", "fail", "undecided"].filter(tally).flatMap((o) => [badge(o, `${tally(o)} ${o}`), " "]), el("span", {class: "soft small"}, "Dot: estimate. Line: interval. Dashed: limit.")),
    table([["check", ""], ["result", ""], ["", ""], ["estimate", "right"], ["interval", "right"], ["limit", "right"], ["n", "right"], ["why", "why"]],
      plan.verdicts.map((v) => [words(v.name), badge(v.outcome), interval(v), number(v.estimate), v.ci ? `${number(v.ci[0])} – ${number(v.ci[1])}` : "–", number(v.threshold), count(v.n), v.evidence]))));
  if ((plan.machines || []).length) parts.push(el("section", {"aria-labelledby": "h-machines"}, el("h2", {id: "h-machines"}, "Machines"), machineTable(plan),
    plan.preflight.length ? el("ul", {}, plan.preflight.map((line) => el("li", {}, `proven: ${line}`))) : null));
  parts.push(el("section", {"aria-labelledby": "h-reasons"}, el("h2", {id: "h-reasons"}, "Why so"), facts(Object.entries(plan.reasons).map(([name, why]) => [words(name), why]))));
  parts.push(el("section", {}, el("details", {}, el("summary", {}, `Thresholds (${Object.keys(plan.thresholds).length}), frozen before anything was graded`),
    table([["threshold", ""], ["value", "right"]], Object.entries(plan.thresholds).map(([name, value]) => [words(name), number(value)]))),
    el("details", {}, el("summary", {}, "Data that the plan is bound to"), table([["artifact", ""], ["sha256", "mono"]], Object.entries(plan.data).map(([n, h]) => [n, h]))),
    state.plan.page ? el("details", {}, el("summary", {}, "plan.md"), el("pre", {}, state.plan.page)) : null));
  return parts;
}

function machineTable(plan) {
  const dollars = (value) => `$${value.toFixed(2)}`;
  const gpus = (one) => one.gpu ? `${one.gpus > 1 ? `${one.gpus} × ` : ""}${one.gpu}${one.gpu_memory_gib ? `, ${number(one.gpu_memory_gib)} GiB` : ""}` : "–";
  return table([["provider", ""], ["machine", ""], ["", ""], ["GPU", ""], ["an hour", "right"], ["tokens/s", "right"], ["lease", "right"], ["cost", "right"], ["P90", "right"], ["at worst", "right"], ["why", "why"]],
    plan.machines.map((one) => one.offer
      ? [one.provider, one.offer, badge({chosen: "pass", rejected: "", alternate: "undecided", possible: ""}[one.verdict], one.verdict), gpus(one), dollars(one.usd_per_hour), count(Math.round(one.tokens_per_second)),
        `${number(one.hours_p50)} h`, dollars(one.usd_p50), dollars(one.usd_p90), dollars(one.worst_usd), one.reason]
      : [one.provider, "–", badge("", one.verdict), "–", "–", "–", "–", "–", "–", "–", one.reason]));
}

function drawMoney() {
  const money = state.money, maybe = (micro) => micro === null ? "–" : usd(micro);
  const left = money.budget - money.settled - money.reserved;
  const tiles = [["spent", usd(money.settled)], ["set aside", usd(money.reserved)], ["to come", usd(money.to_come_p50)], ["to come, P90", usd(money.to_come_p90)],
    ["cap", usd(money.budget)], ["left", usd(left)], ["before approval", `${usd(money.before_gate)} of ${usd(money.before_gate_cap)}`]];
  return [el("dl", {class: "tiles"}, tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("section", {"aria-labelledby": "h-money"}, el("h2", {id: "h-money"}, "By phase"),
      table([["phase", ""], ["state", ""], ["estimated", "right"], ["P90", "right"], ["set aside", "right"], ["spent", "right"], ["to come", "right"], ["basis", "why"]],
        money.phases.map((p) => [words(p.phase), p.status || "to come", maybe(p.estimated_p50), maybe(p.estimated_p90), usd(p.reserved), usd(p.spent), usd(p.to_come_p50), p.basis || "–"])))];
}

function drawDecisions() {
  const made = state.decisions;
  if (!made.taken) return [el("section", {}, el("h2", {}, "No decisions yet"), el("p", {class: "soft"}, "Reject or edit pairs in the list of pairs. Every decision stays here, with who took it, when and why."))];
  const stale = made.stale ? [el("p", {class: "fault"}, `${count(made.stale)} are about pairs that have changed since, and have no effect.`)] : [];
  return [el("section", {}, el("h2", {}, "Decisions"), ...stale, table([["when", ""], ["who", ""], ["what", ""], ["pair", "mono"], ["why", "why"]],
    made.history.slice().reverse().map((one) => [new Date(one.at * 1000).toLocaleString(), one.who, {reject: "rejected", edit: "edited", keep: "taken back"}[one.action], one.id, one.why || "–"])))];
}

// --- lists ----------------------------------------------------------------------------------------------------

function drawTools() {
  const view = views[tab], known = state.facets[tab] || {};
  const change = (set) => guard(async () => { set(); view.offset = 0; here = -1; await loadList(); });
  let timer = 0;
  const search = el("input", {type: "search", id: "search", value: view.q, placeholder: "words that must occur", "aria-keyshortcuts": "/",
    on: {input: (event) => { clearTimeout(timer); timer = setTimeout(() => change(() => { view.q = event.target.value; view.sample = false; drawSample(); }), 200); }}});
  const selects = Object.keys(FACETS).filter((name) => known[name] && (Object.keys(known[name]).length > 1 || view.facets[name])).map((name) => el("label", {}, FACETS[name],
    el("select", {id: "filter-" + name, on: {change: (event) => change(() => { if (event.target.value) view.facets[name] = event.target.value; else delete view.facets[name]; })}},
      el("option", {value: ""}, `all (${Object.keys(known[name]).length})`),
      Object.entries(known[name]).map(([value, n]) => el("option", {value, selected: view.facets[name] === value}, `${words(value)} (${count(n)})`)))));
  const sampled = el("label", {}, "Show", el("select", {id: "sample", on: {change: (event) => change(() => { view.sample = event.target.value === "1"; })}},
    el("option", {value: "1", selected: view.sample}, "a sample of every kind"), el("option", {value: "0", selected: !view.sample}, "all")));
  const drawSample = () => { $("sample").value = view.sample ? "1" : "0"; };
  $("tools").replaceChildren(el("div", {class: "filters", role: "search"}, el("label", {}, "Search", search), sampled, ...selects));
}

function drawList() {
  const view = views[tab], from = view.offset + 1, to = view.offset + list.items.length;
  const turn = (by) => guard(async () => { view.offset = Math.max(0, view.offset + by); here = 0; await loadList(); focusHere(); });
  const pager = () => el("div", {class: "pager"}, el("span", {class: "soft small"}, list.total ? `${count(from)} to ${count(to)} of ${count(list.total)}` : "nothing fits"),
    el("span", {class: "row"}, el("button", {type: "button", class: "prev", disabled: view.offset === 0, "aria-label": "previous page", on: {click: () => turn(-PAGE)}}, "‹ previous"),
      el("button", {type: "button", class: "next", disabled: to >= list.total, "aria-label": "next page", on: {click: () => turn(PAGE)}}, "next ›")));
  const cards = list.items.map((item, index) => ({pairs: pairCard, rows: refusedCard, refused: refusedCard, dropped: droppedCard, poisoned: poisonedCard}[tab])(item, index));
  $("list").replaceChildren(pager(), ...cards, ...(list.items.length > 5 ? [pager()] : []));
}

function card(item, index, kind, ...children) {
  return el("article", {id: "item-" + index, tabindex: -1, class: [kind, index === here ? "here" : ""].join(" "), "data-id": item.id, "aria-label": `${index + 1} of ${list.items.length}`,
    on: {focusin: () => { if (here !== index) { here = index; markHere(); } }}}, ...children);
}

function chips(item) {
  const place = [item.document, item.locator].filter(Boolean).join(" · ");
  return el("p", {class: "chips"}, item.decision ? badge(item.decision) : null, item.reason ? badge("fail", words(item.reason)) : null, item.bucket ? badge("", words(item.bucket)) : null,
    item.subtopic ? badge("", item.subtopic) : null, item.split ? badge("", words(item.split)) : null, el("span", {}, place), el("span", {class: "mono"}, item.id));
}

function passage(item) {
  if (!item.passage) return null;
  const {text, marks, heading} = item.passage, box = el("div", {class: "passage", tabindex: 0, role: "group", "aria-label": "passage, evidence marked"});
  let at = 0;
  for (const [start, end] of marks) { if (start < at) continue; box.append(text.slice(at, start), el("mark", {}, text.slice(start, end))); at = end; }
  box.append(text.slice(at));
  const open = tab !== "refused", first = marks.length ? box.querySelector("mark") : null;
  const details = el("details", {open, on: {toggle: () => { if (first && details.open) box.scrollTop = Math.max(0, first.offsetTop - box.offsetTop - 60); }}}, el("summary", {}, heading ? `Passage: ${heading}` : "Passage"), box);
  return details;
}

function dialogue(item) {
  return [...(item.earlier || []).map((turn) => el("p", {class: "soft"}, `${turn.role}: ${turn.content}`)), el("p", {class: "q"}, item.question), el("p", {class: "a"}, item.answer)];
}

function pairCard(item, index) {
  if (editing === item.id) return editCard(item, index);
  const decided = item.decision !== "";
  const acts = el("p", {class: "row"},
    item.decision === "rejected" ? null : el("button", {type: "button", class: "reject danger", "aria-keyshortcuts": "x", on: {click: () => guard(() => reject(index))}}, "Reject"),
    el("button", {type: "button", class: "edit", "aria-keyshortcuts": "e", on: {click: () => edit(index)}}, "Edit"),
    decided ? el("button", {type: "button", class: "keep", on: {click: () => guard(() => decide("/api/keep", {pairs: [item.id]}, "taken back"))}}, "Take back") : null,
    item.why ? el("span", {class: "soft small"}, `because: ${item.why}`) : null);
  const before = item.original ? el("details", {}, el("summary", {}, "Before the edit"), el("p", {class: "q"}, item.original.question), el("p", {class: "a"}, item.original.answer)) : null;
  return card(item, index, item.decision, chips(item), dialogue(item), before, passage(item), (item.also || []).map((quote) => el("blockquote", {class: "passage"}, el("mark", {}, quote.evidence))), acts);
}

function editCard(item, index) {
  const field = (name, label) => el("label", {}, label, el("textarea", {id: "edit-" + name, rows: 3, readonly: name === "answer" && !item.passage_id}, item[name]));
  const fault = el("p", {class: "fault", id: "edit-fault", role: "alert", hidden: true});
  const save = () => guard(async () => {
    const fields = {};
    for (const name of ["question", "answer", "evidence"]) { const box = $("edit-" + name); if (box && box.value !== item[name]) fields[name] = box.value; }
    if (!Object.keys(fields).length) return stopEditing(index);
    try { await ask("/api/edit", {pairs: [item.id], fields, why: $("edit-why").value}); }
    catch (error) { fault.textContent = error.message; fault.hidden = false; return; }
    editing = "";
    say("edited");
    await refresh(); await loadList(); focusHere();
  });
  return card(item, index, "editing", chips(item), field("question", "Question"), field("answer", item.passage_id ? "Answer" : "Answer (the one sentence to abstain with)"),
    item.passage_id ? field("evidence", "Evidence: an exact stretch of the passage") : null, passage(item), el("label", {}, "Why (kept with the decision)", el("input", {id: "edit-why", maxlength: 500})), fault,
    el("p", {class: "row end", on: {}}, el("button", {type: "button", on: {click: () => stopEditing(index)}}, "Cancel"), el("button", {type: "button", class: "main", id: "edit-save", "aria-keyshortcuts": "Control+Enter", on: {click: save}}, "Save")));
}

function refusedCard(item, index) { return card(item, index, "", chips(item), dialogue(item), passage(item)); }

function droppedCard(item, index) {
  const about = [item.detail, item.dup_of && `copy of ${item.dup_of}`, item.similarity && `similarity ${number(item.similarity)}`, `${count(item.chars)} characters`].filter(Boolean).join(" · ");
  return card(item, index, "", chips(item), el("p", {class: "soft"}, about), item.sample ? el("div", {class: "passage"}, item.sample) : null);
}

function poisonedCard(item, index) { return card(item, index, "", chips({...item, id: item.passage_id}), el("p", {class: "a"}, item.found), passage(item)); }

// --- acting ---------------------------------------------------------------------------------------------------

async function decide(path, body, done) {
  await ask(path, body);
  say(done);
  await refresh(); await loadList(); focusHere();
}

async function reject(index) {
  const item = list.items[index];
  await decide(item.decision === "rejected" ? "/api/keep" : "/api/reject", {pairs: [item.id]}, item.decision === "rejected" ? "taken back" : "rejected");
}

function edit(index) { editing = list.items[index].id; here = index; drawList(); $("edit-question").focus(); }
function stopEditing(index) { editing = ""; here = index; drawList(); focusHere(); }
async function remake() { await ask("/api/remake", {}); say("making the plan again"); await refresh(); }

function confirmThis(title, body, yes, act) {
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...body);
  $("dialog-yes").textContent = yes;
  $("dialog-yes").hidden = !act;
  $("dialog-no").textContent = act ? "Cancel" : "Close";
  $("dialog-fault").hidden = true;
  $("dialog-yes").onclick = async () => {
    try { await act(); $("dialog").close(); } catch (error) { $("dialog-fault").textContent = error.message; $("dialog-fault").hidden = false; }
  };
  $("dialog").showModal();
}

function approve() {
  if ($("approve").disabled) { say($("approve").title || "the plan cannot be approved now"); return; }
  const {plan, sha256, short} = state.plan, open = plan.verdicts.filter((v) => v.outcome !== "pass");
  confirmThis(`Approve plan ${short}?`, [
    el("p", {}, `${plan.name} from ${plan.base}. It would cost $${plan.cost_p50_usd.toFixed(2)} more (P90 $${plan.cost_p90_usd.toFixed(2)}), never beyond the cap of $${plan.budget_usd.toFixed(2)}.`),
    open.length ? el("p", {}, "Not passed: ", open.flatMap((v) => [badge(v.outcome, words(v.name)), " "])) : el("p", {}, "Every check passes."),
    el("p", {class: "soft"}, "The approval counts for exactly this plan; any change of plan or data voids it."),
  ], "Approve", async () => { await ask("/api/approve", {plan: sha256}); finish("approved", "The plan is approved", `forge resume ${state.run}`); });
}

function closeRun() {
  confirmThis("Reject the plan?", [el("p", {}, "The run is closed at the gate. Its data and your decisions stay; nothing more is spent.")], "Reject the plan",
    async () => { await ask("/api/close", {}); finish("rejected", "The plan is rejected", `forge resume ${state.run}`); });
}

function finish(kind, title, next) {
  ended = true;
  document.querySelector("header").remove();
  $("main").replaceChildren(el("div", {class: "over", id: "over", "data-outcome": kind}, el("h2", {}, title), el("p", {}, "This page has ended and can be closed. Go on in the terminal:"), el("pre", {}, next)));
  $("main").focus();
  say(title);
}

// --- keys -----------------------------------------------------------------------------------------------------

function markHere() { document.querySelectorAll("article").forEach((one, index) => one.classList.toggle("here", index === here)); }
function focusHere() { const found = $("item-" + here); if (found) { found.focus({preventScroll: true}); found.scrollIntoView({block: "nearest"}); markHere(); } }
function move(by) { if (!(tab in LISTS) || !list.items.length) return; here = Math.max(0, Math.min(list.items.length - 1, here + by)); focusHere(); }
function press(selector) { const found = document.querySelector(selector); if (found && !found.disabled) found.click(); }

function showKeys() {
  const keys = [["j, k", "next, previous"], ["x", "reject, or take the rejection back"], ["e", "edit"], ["a", "approve the plan"], ["n, p", "next, previous page"], ["/", "search"], ["1 … 7", "parts of the review"], ["Ctrl+Enter, Esc", "save, leave an edit"]];
  confirmThis("Keys", [facts(keys.map(([key, what]) => [el("kbd", {}, key), what]))], "", null);
}

document.addEventListener("keydown", (event) => {
  if (ended) return;
  const typing = event.target.matches("input, textarea, select");
  if (typing && event.key === "Escape") { event.preventDefault(); if (editing) stopEditing(here); else event.target.blur(); return; }
  if (editing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); press("#edit-save"); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("dialog").open) return;
  const item = tab === "pairs" && here >= 0 && !editing ? list.items[here] : null;
  const acts = {
    j: () => move(1), k: () => move(-1), x: () => item && guard(() => reject(here)), e: () => item && edit(here), a: approve, n: () => press("button.next"), p: () => press("button.prev"),
    "/": () => $("search") && $("search").focus(), "?": showKeys, Escape: () => editing && stopEditing(here),
  };
  const names = Object.entries(TABS).filter(shown).map(([name]) => name);
  if (event.key >= "1" && event.key <= String(names.length)) acts[event.key] = () => guard(() => open(names[event.key - 1]));
  if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
});
$("approve").addEventListener("click", approve);
$("close-run").addEventListener("click", closeRun);
$("help").addEventListener("click", showKeys);
$("dialog-no").addEventListener("click", () => $("dialog").close());
$("later").addEventListener("click", () => guard(async () => { await ask("/api/later", {}); finish("later", "Your decisions are kept", `forge review ${state.run}`); }));
guard(async () => { await refresh(); await open("plan"); });
