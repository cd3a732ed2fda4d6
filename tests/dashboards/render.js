// Draws every panel of the dashboards in Chromium, against a real Prometheus after a real scenario, and reads what a
// person would read. Leaves the pictures in target/dashboards.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const esbuild = require('esbuild');
const { chromium } = require('playwright-core');
const scenario = require('./scenario');

const ROOT = path.join(__dirname, '../..');
const PICTURES = path.join(ROOT, 'target/dashboards');
const WORK = path.join(PICTURES, 'work');
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

async function main() {
    fs.rmSync(PICTURES, { recursive: true, force: true });
    fs.mkdirSync(WORK, { recursive: true });
    const ending = [];
    try {
        await bundle();
        const site = await serve(ending);
        const played = await scenario.start(WORK);
        ending.push(played.stop);
        const browser = await chromium.launchPersistentContext(path.join(WORK, 'profile'), {
            executablePath: which('chromium'), headless: true, args: ARGUMENTS, viewport: { width: 1616, height: 1000 }, locale: 'en-US', timezoneId: 'UTC',
        });
        ending.push(() => browser.close());
        const now = Math.floor(Date.now() / 1000);
        const failures = [];
        for (const [name, look] of [['whatsapp-fleet', fleet], ['whatsapp-accounts', accounts], ['whatsapp-exporter', exporter]]) {
            const page = await browser.newPage();
            await draw(page, site, name, read(name), played, now, failures);
            await check(failures, name, () => look(page));
            await page.close();
        }
        const page = await browser.newPage();
        await draw(page, site, 'unlimited', lowestOfTheUnlimited(), played, now, failures);
        await check(failures, 'a stat of an unlimited number', async () => assert.equal(await text(page, 'Lowest limit'), 'Unlimited'));
        await check(failures, 'gzip', () => gzipIsRead(page, played.web));
        assert.deepEqual(failures, []);
    } finally {
        for (const end of ending.reverse()) await end();
        fs.rmSync(WORK, { recursive: true, force: true });
    }
    console.log(`All panels are as they should be; pictures in ${path.relative(process.cwd(), PICTURES)}`);
}

// ---- what a person reads

async function fleet(page) {
    const stats = { 'Phone numbers': /^16$/, 'Downgraded in 24 h': /^4$/, 'Flagged now': /^4$/, 'Lowest limit': /^250$/, 'Firing alerts': /^[1-9]\d*$/ };
    for (const [title, value] of Object.entries(stats)) {
        assert.match(await text(page, title), value, title);
    }
    for (const title of ['Downgraded in 24 h', 'Flagged now', 'Firing alerts', 'Lowest limit']) {
        assert.ok(await page.$eval(`[data-panel="${title}"]`, isRed), `${title} is not red`);
    }
    const flagged = await page.$$('[data-panel="Numbers, worst first"] [role=cell]:has-text("FLAGGED")');
    assert.equal(flagged.length, 4);
    for (const cell of flagged) {
        assert.ok(await cell.evaluate(isRed), 'FLAGGED is not red');
    }
    const rows = await page.$$eval('[data-panel="Numbers, worst first"] [role=row]:has([role=cell])', (all) => all.map((row) => row.textContent));
    assert.match(rows[0], /FLAGGED/, 'the worst number does not stand first');
    const numbers = await wholeTable(page, 'Numbers, worst first');
    for (const word of ['Unlimited', 'Not set', 'FLAGGED', '15550783881', '100,000', 'ago', 'kaleyra', '–']) {
        assert.ok(numbers.includes(word), `no ${word} in the table: ${numbers}`);
    }
    assert.ok(!/Infinity|NaN|∞|undefined|1970/.test(numbers), numbers);
    const perLimit = await text(page, 'Numbers per limit');
    for (const word of ['Unlimited', 'Not set']) {
        assert.ok(perLimit.includes(word), `no ${word}: ${perLimit}`);
    }
    assert.match(await text(page, 'Limits'), /15550783881/);
    const accounts = await text(page, 'Accounts');
    assert.match(accounts, /204580258680796/);
    assert.match(accounts, /2,000/);
    assert.match(await text(page, 'Events'), /DOWNGRADE/);
}

async function accounts(page) {
    const stats = { 'Disabled, or about to be': /^2$/, 'Restricted now': /^1$/, 'Alerts in 24 h': /^1$/, 'Templates of low quality': /^1$/, 'Numbers rated low': /^1$/ };
    for (const [title, value] of Object.entries(stats)) {
        assert.match(await text(page, title), value, title);
        assert.ok(await page.$eval(`[data-panel="${title}"]`, isRed), `${title} is not red`);
    }
    const rows = await page.$$eval('[data-panel="Accounts, worst first"] [role=row]:has([role=cell])', (all) => all.map((row) => row.textContent));
    assert.match(rows[0], /DISABLED/, 'the worst account does not stand first');
    assert.match(rows[1], /scheduled/);
    const table = await wholeTable(page, 'Accounts, worst first');
    for (const word of ['102290129340398', '204580258680796', 'ago', '–', 'no end']) {
        assert.ok(table.includes(word), `no ${word} in the table: ${table}`);
    }
    assert.ok(!/Infinity|NaN|∞|undefined|1970|Invalid/.test(table), table);
    const restrictions = await wholeTable(page, 'Restrictions');
    for (const word of ['RESTRICTED_BIZ_INITIATED_MESSAGING', 'RESTRICTED_ADD_PHONE_NUMBER_ACTION', 'no end']) {
        assert.ok(restrictions.includes(word), `no ${word}: ${restrictions}`);
    }
    assert.match(await text(page, 'Account events'), /ACCOUNT_RESTRICTION/);
    assert.match(await text(page, 'Template events'), /PAUSED/);
    assert.match(await text(page, 'Ratings'), /YELLOW/);
}

async function exporter(page) {
    assert.match(await text(page, 'Up'), /up/);
    assert.match(await text(page, 'Version'), /\d+\.\d+\.\d+/);
    assert.match(await text(page, 'Since the last webhook'), /^[\d.]+ ?(ms|s|secs?|seconds?|mins?)$/);
    assert.match(await text(page, 'Storage'), /up/);
    const providers = await text(page, 'Providers');
    for (const word of ['meta', 'kaleyra', 'on', 'ago']) {
        assert.ok(providers.includes(word), `no ${word}: ${providers}`);
    }
    assert.ok(!/1970|NaN/.test(providers), providers);
    const axes = { 'Storage size': /KiB|MiB/, Memory: /MiB/, Webhooks: /req\/s/, 'Time to answer': /ms|µs/, CPU: /%/ };
    for (const [title, unit] of Object.entries(axes)) {
        const drawn = await page.evaluate((name) => window.written[name] ?? [], title);
        assert.match(drawn.join(' '), unit, `${title}: ${drawn}`);
    }
}

// ---- drawing

function read(name) {
    return JSON.parse(fs.readFileSync(path.join(ROOT, `dashboards/${name}.json`), 'utf8'));
}

/** The fleet's stat of the lowest limit, as it is where the unlimited number alone is chosen. */
function lowestOfTheUnlimited() {
    const dashboard = read('whatsapp-fleet');
    const panels = dashboard.panels.filter(({ title }) => title === 'Lowest limit');
    for (const { targets } of panels) {
        for (const target of targets) target.expr = target.expr.replaceAll('$phone_number', '447700900101');
    }
    return { ...dashboard, annotations: { list: [] }, panels };
}

/** The exporter glues its gzip member from pieces; a browser must read all of it. */
async function gzipIsRead(page, web) {
    // Of part 1 of 2, which has phone numbers alone and so does not change between two requests.
    const url = `http://${web}/metrics?shard=1/2`;
    const answer = await page.goto(url);
    assert.equal(answer.headers()['content-encoding'], 'gzip');
    const plain = await fetch(url, { headers: { 'Accept-Encoding': 'identity' } });
    assert.equal(plain.headers.get('content-encoding'), null);
    assert.equal((await answer.body()).toString(), await plain.text());
}

async function draw(page, site, name, dashboard, { prometheus, began: from }, to, failures) {
    const faults = [];
    page.setDefaultTimeout(20_000);
    page.on('pageerror', (error) => faults.push(error.stack));
    page.on('console', (message) => { if (message.type() === 'error' && process.env.VERBOSE) console.error(message.text()); });
    await page.addInitScript(rememberWhatCanvasesSay);
    await page.goto(site);
    const errors = await page.evaluate(([...all]) => window.draw(...all), [dashboard, prometheus, from, to]);
    failures.push(...errors.map((error) => `${name}: ${error}`));
    await page.waitForFunction((count) => document.querySelectorAll('[data-panel]').length === count, dashboard.panels.length);
    await page.evaluate(async () => {
        await document.fonts.ready;
        // Plots draw in the frame after they are made.
        for (let frame = 0; frame < 10; frame += 1) await new Promise(requestAnimationFrame);
    });
    await page.locator('#dashboard > div').screenshot({ path: path.join(PICTURES, `${name}.png`) });
    for (const { title, type } of dashboard.panels) {
        const place = page.locator(`[data-panel="${title}"]`);
        await place.screenshot({ path: path.join(PICTURES, `${name}-${slug(title)}.png`) });
        await check(failures, `${name}: ${title}`, async () => {
            assert.equal(await place.locator('h2').first().textContent(), title);
            assert.equal(await place.locator('[role=alert], [data-testid=empty]').count(), 0, await place.textContent());
            assert.doesNotMatch(await place.textContent(), /No data|NaN|Infinity|undefined|An error/);
            if (type === 'timeseries') assert.ok(await place.locator('canvas').evaluate(hasLines), 'no line is drawn');
        });
    }
    failures.push(...faults.map((fault) => `${name}: ${fault}`));
}

/** Runs in the page: numbers on axes are drawn, and stand nowhere as text. */
function rememberWhatCanvasesSay() {
    window.written = {};
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function remember(words, ...rest) {
        const panel = this.canvas.closest?.('[data-panel]')?.dataset.panel;
        if (panel) (window.written[panel] ??= []).push(words);
        return fillText.call(this, words, ...rest);
    };
}

/** Runs in the page: a line has a colour, an axis is grey. */
function hasLines(canvas) {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let coloured = 0;
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue, opacity] = data.slice(at, at + 4);
        if (opacity > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) coloured += 1;
    }
    return coloured > 100;
}

/** Runs in the page: the background of an element, or of one within it; Grafana's is a gradient. */
function isRed(element) {
    return [element, ...element.querySelectorAll('*')].some((each) => {
        const { backgroundColor, backgroundImage } = getComputedStyle(each);
        const colours = [...`${backgroundColor} ${backgroundImage}`.matchAll(/rgb\((\d+), (\d+), (\d+)\)/g)];
        return colours.some(([, red, green, blue]) => red > 150 && green < 110 && blue < 130);
    });
}

async function text(page, title) {
    const [heading, all] = await Promise.all(['h2', ':scope'].map((part) => page.locator(`[data-panel="${title}"]`).locator(part).first().textContent()));
    return all.replace(heading, '').trim();
}

/** A table makes the rows that are in sight. */
async function wholeTable(page, title) {
    const place = page.locator(`[data-panel="${title}"]`);
    const top = await place.textContent();
    const cells = place.locator('[role=cell]');
    const below = async () => {
        await cells.last().scrollIntoViewIfNeeded();
        return place.textContent();
    };
    const bottom = [await below(), await below(), await below()];
    await cells.first().evaluate((cell) => { for (let each = cell; each; each = each.parentElement) each.scrollTop = 0; });
    return [top, ...bottom].join(' ');
}

async function check(failures, what, test) {
    try {
        await test();
    } catch (error) {
        failures.push(`${what}: ${error.message}`);
    }
}

// ---- the page

async function bundle() {
    await esbuild.build({
        entryPoints: [path.join(__dirname, 'page.jsx')], outfile: path.join(WORK, 'page.js'), bundle: true, format: 'iife', platform: 'browser',
        // The libraries' files for `require`, which are whole.
        conditions: ['require'], mainFields: ['browser', 'main', 'module'],
        // An editor that no panel opens.
        external: ['monaco-editor'],
        define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
        loader: { '.svg': 'dataurl', '.ttf': 'dataurl', '.woff': 'dataurl', '.woff2': 'dataurl', '.png': 'dataurl' }, logLevel: 'error',
    });
}

function serve(ending) {
    const html = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/page.css"><body><div id="dashboard"></div><script src="/page.js"></script>';
    const types = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
    const server = http.createServer((request, answer) => {
        const { pathname } = new URL(request.url, 'http://page');
        if (pathname === '/') return answer.setHeader('content-type', 'text/html').end(html);
        // Icons are in the package; Grafana serves them below public/build.
        const icon = pathname.match(/\/img\/(.+)$/);
        const file = icon ? path.join(__dirname, 'node_modules/@grafana/ui/dist/public/img', icon[1]) : path.join(WORK, path.basename(pathname));
        if (!fs.existsSync(file)) return answer.writeHead(404).end();
        return answer.setHeader('content-type', types[path.extname(file)] ?? 'application/octet-stream').end(fs.readFileSync(file));
    });
    ending.push(() => { server.closeAllConnections(); server.close(); });
    return new Promise((listening) => { server.listen(0, '127.0.0.1', () => listening(`http://127.0.0.1:${server.address().port}/`)); });
}

function which(program) {
    const found = process.env.PATH.split(':').map((folder) => path.join(folder, program)).find((file) => fs.existsSync(file));
    if (!found) throw new Error(`no ${program}`);
    return found;
}

const slug = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');

main().catch((error) => { console.error(error); process.exitCode = 1; });
