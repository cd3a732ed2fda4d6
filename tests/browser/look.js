// Reads the status page of a real exporter in Chromium: what a person reads after a webhook, that hostile values stay
// text, that nothing is loaded from elsewhere, and what axe-core finds. Leaves pictures in target/browser.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');

const ROOT = path.join(__dirname, '../..');
const PICTURES = path.join(ROOT, 'target/browser');
const BINARY = process.env.EXPORTER || path.join(ROOT, 'target/release/whatsapp-quality-exporter');
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const FLEET = 100_000;
const HOSTILE = '<script>document.title = "taken"</script>"\'&<img src=x onerror=alert(1)>';

// Starts an exporter on free ports, and waits until it is ready.
async function start(folder) {
    fs.mkdirSync(folder, { recursive: true });
    const child = spawn(BINARY, [
        '--web.listen-address=127.0.0.1:0', '--webhook.listen-address=127.0.0.1:0', '--log.format=json',
        `--storage.path=${path.join(folder, 'data')}`, '--webhook.allow-unauthenticated=8x8,kaleyra,meta',
        '--webhook.external-url=https://hooks.example.com',
    ], { stdio: ['ignore', 'ignore', 'pipe'] });
    const addresses = {};
    await new Promise((resolve, reject) => {
        let log = '';
        child.on('exit', () => reject(new Error(`the exporter ended:\n${log}`)));
        child.stderr.on('data', (text) => {
            log += text;
            for (const line of log.split('\n').filter((line) => line.endsWith('}')).map(JSON.parse)) {
                if (line.message === 'listening') addresses[line.listener] = `http://${line.address}`;
                if (line.message === 'ready') resolve();
            }
        });
    });
    child.removeAllListeners('exit');
    const ended = new Promise((resolve) => child.on('exit', resolve));
    return { ...addresses, stop: () => { child.kill('SIGTERM'); return ended; } };
}

async function send(exporter, entries) {
    const body = JSON.stringify({ object: 'whatsapp_business_account', entry: entries });
    const answer = await fetch(`${exporter.webhook}/webhooks/meta`, { method: 'POST', body });
    assert.equal(answer.status, 200, await answer.text());
}

function quality(id, number, event, limit, before) {
    const value = { display_phone_number: number, event, current_limit: limit, old_limit: before };
    return { id, time: Math.floor(Date.now() / 1000) - 3 * 3600, changes: [{ field: 'phone_number_quality_update', value }] };
}

// The cells of the first table, a row each.
function rows(page) {
    return page.$$eval('table:first-of-type', ([table]) => [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim())));
}

async function axe(page, name) {
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html.slice(0, 120)).join(' ')}`);
    assert.deepEqual(found, [], `axe-core on ${name}`);
}

async function main() {
    fs.rmSync(PICTURES, { recursive: true, force: true });
    fs.mkdirSync(PICTURES, { recursive: true });
    const ending = [];
    try {
        const exporter = await start(path.join(PICTURES, 'work/few'));
        ending.push(exporter.stop);
        const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', headless: true, args: ARGUMENTS });
        ending.push(() => browser.close());
        const requests = [];
        const open = async (options) => {
            // axe-core is put into the page by the test, which the policy of the page would refuse.
            const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: 'en-US', timezoneId: 'UTC', ...options });
            const page = await context.newPage();
            page.on('request', (request) => requests.push(request.url()));
            page.on('pageerror', (error) => assert.fail(error));
            return page;
        };
        const page = await open({});
        const picture = (page, name) => page.screenshot({ path: path.join(PICTURES, `${name}.png`), fullPage: true });

        await page.goto(exporter.web);
        assert.match(await page.innerText('main'), /No phone number is known yet/);
        await axe(page, 'the empty page');
        await picture(page, 'empty');

        await readAfterWebhooks(page, exporter);
        await axe(page, 'the page');
        await picture(page, 'light');
        for (const [name, options] of [['dark', { colorScheme: 'dark' }], ['narrow', { viewport: { width: 390, height: 844 } }]]) {
            const other = await open(options);
            await other.goto(exporter.web);
            await axe(other, `the ${name} page`);
            const width = await other.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
            assert.ok(width[0] <= width[1], `the ${name} page is wider than the window: ${width}`);
            await picture(other, name);
        }
        await useTheKeyboard(page, exporter);
        await readNumberAndAccount(page, exporter, picture);
        await hostileValuesStayText(page, exporter);

        const many = await start(path.join(PICTURES, 'work/many'));
        ending.push(many.stop);
        await fleet(page, many);
        await picture(page, 'fleet');
        const elsewhere = requests.filter((url) => !url.startsWith(exporter.web) && !url.startsWith(many.web));
        assert.deepEqual(elsewhere, [], 'requests that leave the page');
        console.log(`${requests.length} requests, all to the exporter; pictures in target/browser`);
    } finally {
        for (const end of ending.reverse()) await end();
    }
}

async function readAfterWebhooks(page, exporter) {
    await send(exporter, [
        quality('1', '15550000001', 'UPGRADE', 'TIER_UNLIMITED', 'TIER_100K'),
        quality('1', '15550000002', 'DOWNGRADE', 'TIER_1K', 'TIER_10K'),
        quality('2', '15550000003', 'FLAGGED', 'TIER_100K', null),
        quality('2', '15550000004', 'ONBOARDING', null, null),
        quality('2', '15550000005', 'ONBOARDING', 'TIER_NOT_SET', null),
    ]);
    await page.reload();
    assert.equal((await page.innerText('.summary')).trim(), '5 known, 1 flagged, 1 lowered.');
    const read = (await rows(page)).map(([number, state, limit, before, since, event]) => [number, state, limit, before, event]);
    const ago = '3 hours ago';
    assert.deepEqual(read, [
        ['15550000003', 'flagged', '100K', 'none', `FLAGGED ${ago}`],
        ['15550000002', 'lowered', '1K', '10K', `DOWNGRADE ${ago}`],
        ['15550000005', 'limited', 'not set', 'none', `ONBOARDING ${ago}`],
        ['15550000004', 'unknown', 'unknown', 'none', `ONBOARDING ${ago}`],
        ['15550000001', 'unlimited', 'Unlimited', '100K', `UPGRADE ${ago}`],
    ]);
    assert.match(await page.getAttribute('tbody time', 'title'), /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/);
    assert.match(await page.innerText('main'), /https:\/\/hooks\.example\.com\/webhooks\/meta/);
    console.log('after five webhooks the page reads', JSON.stringify(read));
}

// Search by the keyboard alone: the focus is seen, and Enter sends the form.
async function useTheKeyboard(page, exporter) {
    await page.goto(exporter.web);
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.innerText), 'Skip to the content');
    for (let presses = 0; await page.evaluate(() => document.activeElement.id !== 'q'); presses += 1) {
        assert.ok(presses < 20, 'Tab does not reach the search');
        await page.keyboard.press('Tab');
        const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
        assert.equal(outline, 'solid', 'the focus is not seen');
    }
    await page.keyboard.type('000-0003');
    await page.keyboard.press('Enter');
    await page.waitForURL(/q=000-0003/);
    assert.deepEqual((await rows(page)).map(([number]) => number), ['15550000003']);
    await page.goto(`${exporter.web}/?q=nothing-like-it`);
    assert.match(await page.innerText('main'), /Nothing matches/);
}

async function readNumberAndAccount(page, exporter, picture) {
    await page.goto(exporter.web);
    await page.click('text=15550000002');
    await page.waitForURL(/\/numbers\/meta\/1\/15550000002$/);
    const text = await page.innerText('main');
    assert.match(text, /Messaging limit\s+1K\s+Limit before\s+10K/);
    assert.match(text, /DOWNGRADE\s+1/);
    await axe(page, 'the page of a number');
    await picture(page, 'number');
    await page.click('dd a');
    await page.waitForURL(/\/accounts\/meta\/1$/);
    assert.deepEqual((await rows(page)).map(([number]) => number), ['15550000002', '15550000001']);
    await axe(page, 'the page of an account');
    await picture(page, 'account');
}

async function hostileValuesStayText(page, exporter) {
    // A number may not hold < and >, and an account may.
    await send(exporter, [quality(HOSTILE.slice(0, 64), '1"\'&;/\\{{7*7}}', 'FLAGGED', 'TIER_1K', null)]);
    page.on('dialog', () => assert.fail('a script ran'));
    for (const address of ['/', `/?q=${encodeURIComponent(HOSTILE)}`, '/?q="><script>alert(1)</script>']) {
        await page.goto(exporter.web + address);
        assert.equal(await page.title(), 'WhatsApp Quality Exporter');
        assert.equal(await page.$$eval('script, img', (found) => found.length), 0);
    }
    await page.goto(exporter.web);
    const [hostile] = (await rows(page)).filter((row) => row[6].startsWith('<script>'));
    assert.equal(hostile[6], HOSTILE.slice(0, 64));
    assert.equal(hostile[0], '1"\'&;\\{{7*7}}');
    await page.click(`a[href*="script"] >> nth=0`);
    assert.match(await page.innerText('h1'), /<script>document.title|^1"/);
}

async function fleet(page, exporter) {
    const number = (index) => `1555${String(index).padStart(7, '0')}`;
    for (let first = 0; first < FLEET; first += 1000) {
        const entry = quality(`${1000 + first / 1000}`, '', '', null, null);
        entry.changes = Array.from({ length: 1000 }, (_, index) => quality('', number(first + index), first + index === 77_777 ? 'FLAGGED' : 'ONBOARDING', 'TIER_10K', null).changes[0]);
        await send(exporter, [entry]);
    }
    await page.goto(exporter.web);
    assert.equal((await page.innerText('.summary')).trim(), `${FLEET} known, 1 flagged, 0 lowered.`);
    let read = await rows(page);
    assert.deepEqual([read.length, read[0][0]], [50, number(77_777)]);
    await page.click('text=Next');
    await page.waitForURL(/page=2/);
    assert.match(await page.innerText('.pages'), /Page 2 of 2000/);
    await page.goto(`${exporter.web}/?q=${number(12_345)}&state=limited&provider=meta`);
    read = await rows(page);
    assert.deepEqual(read.map(([found]) => found), [number(12_345)]);
    await page.goto(`${exporter.web}/?page=2000`);
    assert.equal((await rows(page)).length, 50);
    await page.goto(exporter.web);
    await axe(page, 'the page of a fleet');
}

main().catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
