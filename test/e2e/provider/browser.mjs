// A browser that is not ours, Chromium, for the tests of the pages. It takes commands as lines of JSON and answers each
// with a line: {"value": ...} or {"error": "..."}.
//
//   node browser.mjs <path of Chromium>
//
// Each person is a browser context of their own: {"op": "person", "in": "alice", "script": true, "keyboard": false}.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
// It knows this machine alone: nothing waits for another (the providers' pages ask for a font).
const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ['--no-sandbox', '--disable-gpu', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.*'],
});
const patience = 15_000; // milliseconds
const people = new Map();

// within answers what a command comes to, or fails in time: a page without script never resolves a promise.
const within = (work, milliseconds) => Promise.race([work, new Promise((_, fail) => {
  setTimeout(() => fail(new Error(`not done within ${milliseconds / 1000} s`)), milliseconds).unref();
})]);

class Person {
  constructor(context, page, { keyboard = false, script = true }) {
    Object.assign(this, { context, page, keyboard, script, complaints: [], requests: [] });
    page.setDefaultTimeout(patience);
    this.watch(page);
    context.on('page', (popup) => { this.watch(popup); this.popup = popup; popup.setDefaultTimeout(patience); });
    context.on('request', (request) => this.requests.push({ url: request.url(), by: request.isNavigationRequest() ? '' : request.frame().url() }));
  }

  watch(page) {
    page.on('pageerror', (error) => this.complaints.push(`${page.url()}: ${error}`));
    page.on('console', (message) => {
      // Chromium says of a page that answers 404 that it does: that is what was asked for.
      const itself = message.text().startsWith('Failed to load resource') && message.location().url === page.url();
      if (['error', 'warning'].includes(message.type()) && !itself && new URL(page.url()).hostname === 'localhost') this.complaints.push(`${page.url()}: ${message.text()}`);
    });
  }

  // find locates what a person sees: a part by its role and name, within a row or card that holds a text.
  find({ role, name, within, at }) {
    const from = at ? this.page.locator(at).first() : within ? this.page.locator('tr, article, section, li, dialog').filter({ hasText: within, visible: true }).last() : this.page;
    const exact = name === undefined ? {} : { name, exact: role !== 'summary' };
    const found = role === 'summary' ? from.locator('summary').filter({ hasText: new RegExp(`^\\s*${name}`) }) : from.getByRole(role, exact);
    return found.filter({ visible: true }).first();
  }

  // reach moves the focus to an element by the Tab key, and complains where one cannot see it.
  async reach(target) {
    const handle = await target.elementHandle();
    const before = new Set();
    for (let presses = 0; presses < 300; presses++) {
      const at = await handle.evaluate((element) => {
        const focused = document.activeElement;
        const style = getComputedStyle(focused);
        const group = element.type === 'radio' && focused.type === 'radio' && focused.name === element.name;
        return {
          there: focused === element || group, body: focused === document.body, own: Boolean(document.querySelector('header .brand')),
          visible: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
          what: focused.outerHTML.slice(0, 200),
        };
      });
      if (at.own && !at.body && !at.visible && presses > 0 && !before.has(at.what)) {
        this.complaints.push(`${this.page.url()}: the focus has no visible outline at ${at.what}`);
      }
      before.add(at.what);
      if (at.there) return;
      await this.page.keyboard.press('Tab');
    }
    throw new Error(`300 times Tab do not reach ${target}`);
  }

  async activate(target, key = 'Enter') {
    if (!this.keyboard) return target.click();
    await target.waitFor();
    await this.reach(target);
    return this.page.keyboard.press(key);
  }

  // moving waits until what was done has led to another page.
  async moving(act) {
    const moved = this.page.waitForNavigation({ waitUntil: 'load', timeout: patience });
    await Promise.all([moved, act()]);
  }
}

// The providers' own pages are known by their forms.
const providersForm = 'form[action*="/interaction/"]';
const atProvider = (person) => person.page.locator(providersForm).first().isVisible();

const pick = async (person, target, options) => {
  if (!person.keyboard) return options === undefined ? target.check() : target.selectOption({ label: options });
  await target.waitFor();
  await person.reach(target);
  if (options !== undefined) return person.page.keyboard.type(options);
  if (await target.isChecked()) return undefined;
  const radio = await target.evaluate((element) => element.type === 'radio');
  for (let presses = 0; radio && presses < 50 && !(await target.isChecked()); presses++) {
    await person.page.keyboard.press(presses ? 'ArrowDown' : 'Space');
  }
  return radio ? undefined : person.page.keyboard.press('Space');
};

const operations = {
  async person(_, { in: name, script = true, keyboard = false }) {
    const context = await browser.newContext({
      javaScriptEnabled: script, viewport: { width: 1280, height: 900 }, locale: 'en-GB', timezoneId: 'Europe/Vienna',
      permissions: script ? ['clipboard-read', 'clipboard-write'] : [],
    });
    people.set(name, new Person(context, await context.newPage(), { script, keyboard }));
  },
  async leave(person, { in: name }) { people.delete(name); await person.context.close(); },
  async go(person, { url }) { await person.page.goto(url, { waitUntil: 'load' }); },
  async reload(person) { await person.page.reload({ waitUntil: 'load' }); },
  async back(person) { await person.page.goBack({ waitUntil: 'load' }); },
  press: (person, target) => person.moving(() => person.activate(person.find(target))),
  tap: (person, target) => person.activate(person.find(target)),
  see: (person, target) => person.find(target).waitFor(),
  rows: (person, { selector }) => person.page.locator(selector).filter({ visible: true }).allInnerTexts(),
  // key presses one, and says what has the focus then.
  async key(person, { key }) {
    await person.page.keyboard.press(key);
    return person.page.evaluate(() => document.activeElement.textContent.trim());
  },
  choose: (person, target) => pick(person, person.find(target), target.option),
  async fill(person, { label, value }) {
    const field = person.page.getByLabel(label).filter({ visible: true }).first();
    if (!person.keyboard) return field.fill(value);
    await field.waitFor();
    await person.reach(field);
    return person.page.keyboard.type(value);
  },
  // signIn goes through the provider's pages, whichever it shows, until it is back.
  async signIn(person, { as }) {
    await person.page.locator(providersForm).first().waitFor();
    for (let pages = 0; pages < 5 && await atProvider(person); pages++) {
      const login = person.page.locator('input[name=login]');
      if (await login.isVisible()) {
        await (person.keyboard ? (await person.reach(login), person.page.keyboard.type(as)) : login.fill(as));
        const word = person.page.locator('input[name=password]');
        await (person.keyboard ? (await person.reach(word), person.page.keyboard.type('any')) : word.fill('any'));
      }
      await person.moving(() => person.activate(person.page.locator('button[type=submit]').first()));
    }
  },
  // decline is the provider's own link by which a person refuses.
  decline: (person) => person.moving(() => person.activate(person.page.locator('a[href*="/abort"]').first())),
  page: (person) => person.page.evaluate(() => {
    const shown = (selector) => [...document.querySelectorAll(selector)].filter((part) => part.checkVisibility()).map((part) => part.innerText.trim());
    // A word that goes on in the next line, of what has to be read at a glance.
    const torn = [...document.querySelectorAll('button, .button, .pill, header nav a, th[scope=col]')].filter((part) => part.checkVisibility()).flatMap((part) => {
      const found = [];
      for (const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT); texts.nextNode();) {
        const node = texts.currentNode;
        if (node.parentElement.closest('.aside')) continue;
        for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}]{2,}/gu)) {
          const range = document.createRange();
          range.setStart(node, index);
          range.setEnd(node, index + word.length);
          if (new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size > 1) found.push(word);
        }
      }
      return found;
    });
    return {
      torn, url: location.href, title: document.title, heading: document.querySelector('h1')?.innerText ?? '', headings: shown('h1').length,
      text: document.body.innerText, primary: shown('.primary'), buttons: shown('main a.button, main button'), notices: shown('[role=status].notice, .notice'),
      width: document.scrollingElement.scrollWidth, value: document.querySelector('code#value')?.textContent ?? '',
    };
  }),
  async forget(person, { domain }) { await person.context.clearCookies(domain ? { domain } : {}); },
  // hold keeps the browser from opening addresses that hold a text.
  hold: (person, { text }) => person.context.route((url) => url.href.includes(text), (route) => route.fulfill({ contentType: 'text/html', body: '<h1>held</h1>' })),
  // leads says where the first link or form of a name leads.
  leads: (person, target) => person.find(target).evaluate((element) => element.href ?? element.form.action),
  async shown(person, { width, height = 900, dark }) {
    if (width) await person.page.setViewportSize({ width, height });
    await person.page.emulateMedia({ colorScheme: dark ? 'dark' : 'light', reducedMotion: 'reduce' });
  },
  // shot keeps a picture of a page: its upper part, where it is long.
  async shot(person, { path }) {
    const { width, height } = await person.page.evaluate(() => ({ width: innerWidth, height: Math.max(innerHeight, document.documentElement.scrollHeight) }));
    await person.page.screenshot({ path, fullPage: true, clip: { x: 0, y: 0, width, height: Math.min(height, 2000) } });
  },
  // axe is what axe-core has to say about a page, of all its rules or of some.
  async axe(person, { rules }) {
    if (!(await person.page.evaluate(() => 'axe' in globalThis))) await person.page.evaluate(axe);
    const found = await person.page.evaluate((rules) => globalThis.axe.run(document, { resultTypes: ['violations'], ...(rules && { runOnly: rules }) }), rules);
    return found.violations.filter(({ impact }) => impact !== 'minor').flatMap(({ id, impact, nodes }) => nodes.map(({ html, any }) => `${impact} ${id}: ${html} ${any[0]?.message ?? ''}`));
  },
  requests: (person) => person.requests,
  async complaints(person) { const all = person.complaints; person.complaints = []; return all; },
  // api is what a script of the page would send.
  async api(person, { method, url, body }) {
    const response = await person.context.request.fetch(url, { method, data: body });
    if (!response.ok()) throw new Error(`${method} ${url}: ${response.status()} ${await response.text()}`);
    return response.status() === 204 ? null : response.json();
  },
  // links are the addresses that the page refers to, and what they answer.
  async links(person, { known = [] }) {
    const found = await person.page.evaluate(() => [...document.querySelectorAll('[href], [src], form')].flatMap((part) => {
      const form = part.tagName === 'FORM';
      const written = part.getAttribute(form ? 'action' : part.hasAttribute('href') ? 'href' : 'src');
      return written === null ? [] : [{ written, url: new URL(written, document.baseURI).href, form }];
    }));
    const answers = [];
    for (const { written, url, form } of found) {
      if (written.startsWith('#') || new URL(url).origin !== new URL(person.page.url()).origin || known.some((start) => url.startsWith(start)) || answers.some((answer) => answer.url === url)) continue;
      const response = await person.context.request.get(url, { maxRedirects: 0 });
      answers.push({ written, url, form, status: response.status(), kind: response.headers()['content-type'] ?? '', bytes: (await response.body()).length });
    }
    return answers;
  },
  cookie: (person, { name, value, url }) => person.context.addCookies([{ name, value, url }]),
  // within turns to the window that the page has opened; without turns back once that is closed.
  async within(person) {
    person.opener = person.page;
    person.page = person.popup ?? await person.context.waitForEvent('page', { timeout: patience });
    await person.page.waitForLoadState('load');
  },
  async without(person) {
    const popup = person.page;
    if (!popup.isClosed()) await popup.waitForEvent('close', { timeout: patience });
    Object.assign(person, { page: person.opener, popup: undefined });
  },
  until: (person, { text, at = 'body' }) => person.page.locator(at).filter({ hasText: text }).first().waitFor(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await within(operations[command.op](people.get(command.in), command), 3 * patience)) ?? null };
  } catch (error) {
    const page = people.get(command.in)?.page;
    const seen = page && !page.isClosed() ? await within(page.evaluate(() => document.body?.innerText), patience).catch(() => '') : '';
    answer = { error: `${error.message}\nat ${page?.url()}:\n${seen}` };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
