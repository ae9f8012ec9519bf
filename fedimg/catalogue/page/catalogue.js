// The catalogue's page: finds AMIs in latest.json, and, when asked for all images, in one release's file.
// Whatever the files say is set as text, and never as HTML.

const ROWS_AT_ONCE = 100;
const CONSOLES = {
  "aws": "console.aws.amazon.com",
  "aws-cn": "console.amazonaws.cn",
  "aws-us-gov": "console.amazonaws-us-gov.com",
  "aws-eusc": "console.amazonaws-eusc.eu",
};

const element = (id) => document.getElementById(id);
const releases = new Map(); // a release's rows, by its file
let latest = [];
let index = null; // images.json, once somebody wants all images
let shown = ROWS_AT_ONCE;

async function read(file) {
  const response = await fetch(file);
  if (!response.ok) {
    throw new Error(`${file}: the server answers ${response.status}`);
  }
  return response.json();
}

function rowsOfLatest(document) {
  return document.latest.flatMap((each) =>
    Object.entries(each.regions).map(([region, ami]) => ({
      release: each.release,
      image: ami.image,
      architecture: each.architecture,
      type: `${each.virtualization}-${each.volume_type}`,
      region,
      ami: ami.ami,
      partition: each.partition,
      published: ami.published,
      state: "public",
      reason: null,
      replacement: null,
    })),
  );
}

function rowsOfRelease(document) {
  return document.images.flatMap((image) =>
    image.amis.map((ami) => ({
      release: document.release,
      image: image.image,
      architecture: image.architecture,
      type: `${ami.virtualization}-${ami.volume_type}`,
      region: ami.region,
      ami: ami.ami,
      partition: ami.partition,
      published: ami.published,
      state: ami.state,
      reason: ami.reason,
      replacement: ami.replacement,
    })),
  );
}

// What the address asks for, until the selects have it as an option; then the selects alone decide.
const asked = new URLSearchParams(location.hash.slice(1));

function fill(select, values, all) {
  const chosen = asked.get(select.id) ?? select.value;
  const options = [[all, ""], ...values.map((value) => [value, value])];
  if (all === null) {
    options.shift();
  }
  select.replaceChildren(
    ...options.map(([text, value]) => {
      const option = document.createElement("option");
      option.textContent = text;
      option.value = value;
      return option;
    }),
  );
  if (options.some(([, value]) => value === chosen)) {
    select.value = chosen;
    asked.delete(select.id);
  }
}

function unique(rows, field) {
  return [...new Set(rows.map((row) => row[field]))];
}

function matches(row) {
  const search = element("search").value.trim().toLowerCase();
  return (
    ["architecture", "region", "type"].every(
      (field) => !element(field).value || row[field] === element(field).value,
    ) &&
    (!search || row.image.toLowerCase().includes(search) || row.ami.includes(search))
  );
}

function cell(row, content, name) {
  const td = document.createElement("td");
  td.className = name || "";
  td.append(...[content].flat());
  row.append(td);
  return td;
}

function code(text) {
  const node = document.createElement("code");
  node.textContent = text;
  return node;
}

function copyButton(label, what, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  // The name begins with the text, so that speech input finds the button by it.
  button.setAttribute("aria-label", `${label}: copy ${what}`);
  button.addEventListener("click", async () => {
    const done = await copied(text);
    tell(done ? `Copied: ${text}` : `The browser does not let the page copy. The text is: ${text}`);
    button.focus();
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https the browser has no clipboard for pages: select the text and copy that.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function launchLink(row) {
  const console_ = CONSOLES[row.partition];
  if (!console_) {
    return [];
  }
  const link = document.createElement("a");
  link.href = `https://${row.region}.${console_}/ec2/home?region=${row.region}#LaunchInstances:ami=${row.ami}`;
  link.rel = "noreferrer";
  link.textContent = "Launch";
  link.setAttribute("aria-label", `Launch ${row.ami} in the AWS console`);
  return [link];
}

function instanceType(row) {
  if (row.type.startsWith("paravirtual")) {
    return "t1.micro";
  }
  return row.architecture === "arm64" ? "t4g.micro" : "t3.micro";
}

function draw(row) {
  const tr = document.createElement("tr");
  const image = cell(tr, row.image);
  if (row.state !== "public") {
    tr.className = "withdrawn";
    const state = document.createElement("span");
    state.className = "state";
    const instead = row.replacement ? `; use ${row.replacement} instead` : "";
    state.textContent = `${row.state}${row.reason ? `: ${row.reason}` : ""}${instead}`;
    image.append(state);
  }
  cell(tr, row.architecture);
  cell(tr, row.type);
  cell(tr, row.region, "short");
  cell(tr, code(row.ami), "id");
  cell(tr, row.published ? row.published.slice(0, 10) : "unknown", "short");
  const use = cell(tr, copyButton("Copy id", `the id ${row.ami}`, row.ami), "use");
  if (row.state === "public") {
    const size = instanceType(row);
    use.append(
      ...launchLink(row),
      copyButton(
        "AWS CLI",
        `the AWS CLI's command for ${row.ami}`,
        `aws ec2 run-instances --region ${row.region} --image-id ${row.ami} --instance-type ${size}`,
      ),
      copyButton(
        "Terraform",
        `a Terraform resource for ${row.ami}`,
        [
          'resource "aws_instance" "this" {',
          `  region        = "${row.region}"`,
          `  ami           = "${row.ami}"`,
          `  instance_type = "${size}"`,
          "}",
        ].join("\n"),
      ),
    );
  }
  return tr;
}

function tell(text) {
  element("status").textContent = text;
}

async function rowsOfChoice() {
  const release = element("release").value;
  if (!element("all").checked) {
    return latest.filter((row) => row.release === release);
  }
  index ??= await read("images.json");
  fillReleases();
  const found = index.releases.find((each) => (each.release ?? "") === element("release").value);
  if (!found) {
    return [];
  }
  if (!releases.has(found.file)) {
    tell("Loading …");
    releases.set(found.file, rowsOfRelease(await read(found.file)));
  }
  return releases.get(found.file);
}

function fillReleases() {
  const known = element("all").checked && index ? index.releases.map((each) => each.release ?? "") : [];
  fill(element("release"), known.length ? known : unique(latest, "release"), null);
  for (const option of element("release").options) {
    option.textContent ||= "of no release";
  }
}

let drawing = 0;

async function update() {
  const mine = ++drawing;
  try {
    const rows = await rowsOfChoice();
    if (mine !== drawing) {
      return; // a later choice is being drawn
    }
    for (const [id, all] of [["architecture", "any"], ["region", "any"], ["type", "any"]]) {
      fill(element(id), unique(rows, id).sort(), all);
    }
    const found = rows.filter(matches);
    element("rows").replaceChildren(...found.slice(0, shown).map(draw));
    performance.mark("first rows");
    element("more").hidden = found.length <= shown;
    const part = found.length > shown ? `, the first ${shown} are shown` : "";
    tell(`${found.length} ${found.length === 1 ? "AMI" : "AMIs"}${part}`);
    remember();
  } catch (error) {
    element("rows").replaceChildren();
    tell(`The catalogue cannot be read. ${error.message}. Load the page again in a minute.`);
  }
}

function remember() {
  const choice = new URLSearchParams({ release: element("release").value });
  for (const id of ["architecture", "region", "type", "search"]) {
    if (element(id).value) {
      choice.set(id, element(id).value);
    }
  }
  if (element("all").checked) {
    choice.set("all", "1");
  }
  history.replaceState(null, "", `#${choice}`);
}

async function begin() {
  element("search").value = asked.get("search") ?? "";
  element("all").checked = asked.has("all");
  try {
    latest = rowsOfLatest(await read("latest.json"));
  } catch (error) {
    tell(`The catalogue cannot be read. ${error.message}. Load the page again in a minute.`);
    return;
  }
  fillReleases();
  const choose = (event) => {
    asked.delete(event.target.id); // a person's choice comes before the address's
    shown = ROWS_AT_ONCE;
    if (!element("all").checked) {
      fillReleases();
    }
    update();
  };
  element("filters").addEventListener("change", choose);
  element("search").addEventListener("input", choose);
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("more").addEventListener("click", () => {
    shown += ROWS_AT_ONCE;
    update();
  });
  await update();
}

begin();
