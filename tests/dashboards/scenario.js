// The real exporter and a real Prometheus with the rules that are shipped, after a day at the office: numbers of three
// providers, some flagged, some fallen, and everything that can go wrong with a webhook.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const ROOT = path.join(__dirname, '../..');
const PATIENCE = 120_000;
const HOUR = 3600;
const RETAIL = '102290129340398', TRAVEL = '204580258680796', CAMPAIGNS = '300000000000101', OUTLET = '409160517361592';
const TOKEN = { '8x8': 'a-token-of-8x8' };

/** Starts both programs with their files below `folder`; `stop` ends them, and must be called. */
async function start(folder) {
    const children = [];
    const stop = () => Promise.all(children.map(end));
    try {
        const exporter = await startExporter(folder, children);
        const prometheus = await startPrometheus(folder, children, exporter.web);
        await play(exporter.webhooks, prometheus);
        return { web: exporter.web, prometheus: prometheus.url, began: prometheus.began, stop };
    } catch (error) {
        await stop();
        throw error;
    }
}

/** What happens, each step after a few scrapes of the one before, so that a graph shows it. */
async function play(url, prometheus) {
    const send = sender(url);
    const traffic = background(send);
    await send.handshake();
    try {
        const scraped = (times) => prometheus.scrapedAgain(times);
        await scraped(2);

        const onboard = (waba, number, limit, ago = 3) => send.meta(waba, number, { event: 'ONBOARDING', current_limit: limit }, ago);
        await onboard(RETAIL, '15550783881', 'TIER_100K', 2 * HOUR);
        await onboard(RETAIL, '15550783882', 'TIER_100K');
        await onboard(RETAIL, '15550783883', 'TIER_1K', HOUR / 2);
        await onboard(RETAIL, '15550783884', 'TIER_NOT_SET');
        for (const number of ['15550200001', '15550200002', '15550200003']) {
            await onboard(TRAVEL, number, 'TIER_10K');
        }
        await send.capability(RETAIL, { max_phone_numbers_per_business: 25 });
        await send.capability(TRAVEL, { max_daily_conversations_per_business: 10000, max_phone_numbers_per_waba: 5 });
        await send.account(TRAVEL, 'account_alerts', { alert_severity: 'WARNING', alert_type: 'INCREASED_CAPABILITIES_ELIGIBILITY_DEFERRED' });
        await send.account(TRAVEL, 'account_update', { event: 'ACCOUNT_RESTRICTION', restriction_info: [{ restriction_type: 'RESTRICTED_ADD_PHONE_NUMBER_ACTION' }] });
        await send.account(TRAVEL, 'message_template_quality_update', { message_template_id: 1, new_quality_score: 'YELLOW' });
        await send.rating('919000000011', 'ONBOARDING', 'GREEN');
        await send.eightByEight('447700900101', { event: 'UPGRADE', currentLimit: 'TIER_UNLIMITED' });
        await send.eightByEight('447700900102', { event: 'ONBOARDING', currentLimit: 'TIER_10K' });
        await send.eightByEight('447700900103', { event: 'ONBOARDING' });
        await send.kaleyra('919000000001', 'ONBOARDING', 'TIER_1K');
        await send.kaleyra('919000000002', 'ONBOARDING', 'TIER_250');
        await send.kaleyra('919000000003', 'ONBOARDING', 'TIER_OF_TOMORROW');
        await scraped(8);

        await send.meta(RETAIL, '15550783883', { event: 'UPGRADE', current_limit: 'TIER_10K' });
        await send.meta(RETAIL, '15550783881', { event: 'FLAGGED', current_limit: 'TIER_100K' });
        await send.eightByEight('447700900102', { event: 'FLAGGED', currentLimit: 'TIER_10K' });
        await send.kaleyra('919000000001', 'FLAGGED', 'TIER_1K');
        await scraped(6);

        await send.meta(RETAIL, '15550783881', { event: 'DOWNGRADE', current_limit: 'TIER_10K', old_limit: 'TIER_100K' });
        await send.meta(RETAIL, '15550783882', { event: 'THROUGHPUT_UPGRADE', current_limit: 'TIER_100K' });
        await send.kaleyra('919000000001', 'UNFLAGGED', 'TIER_1K');
        await send.account(TRAVEL, 'message_template_quality_update', { message_template_id: 2, new_quality_score: 'RED' });
        await send.account(TRAVEL, 'message_template_status_update', { message_template_id: 2, event: 'PAUSED' });
        await send.account(TRAVEL, 'account_update', { event: 'ACCOUNT_RESTRICTION', restriction_info: [{ restriction_type: 'RESTRICTED_BIZ_INITIATED_MESSAGING', expiration: seconds() + 5 * HOUR }] });
        await send.account(RETAIL, 'account_update', { event: 'DISABLED_UPDATE', ban_info: { waba_ban_state: 'SCHEDULE_FOR_DISABLE' } });
        await send.account(OUTLET, 'account_update', { event: 'DISABLED_UPDATE', ban_info: { waba_ban_state: 'DISABLE' } });
        await send.rating('919000000011', 'FLAGGED', 'YELLOW');
        await send.rating('919000000012', 'FLAGGED', 'RED');
        await scraped(6);

        await send.capability(TRAVEL, { max_daily_conversations_per_business: 2000, max_phone_numbers_per_waba: 5 });
        await send.meta(TRAVEL, '15550200003', { event: 'EVENT_OF_TOMORROW' });
        await send.meta(RETAIL, '15550783881', { event: 'FLAGGED', current_limit: 'TIER_10K' });
        await prometheus.until('an alert on the account', 'ALERTS{alertname="WhatsAppBusinessAccountDowngraded",alertstate="firing"}');
        await scraped(8);
    } finally {
        await traffic.end();
    }
}

/** Sends what never changes a number, over and over: repetitions, scanners, broken bodies. */
function background(send) {
    let ended = false;
    const loop = (async () => {
        for (let turn = 0; !ended; turn += 1) {
            await send.repetition();
            if (turn % 4 === 0) await send.scan();
            if (turn % 6 === 0) await send.broken();
            await pause(150);
        }
    })();
    return { end: () => { ended = true; return loop; } };
}

function sender(url) {
    const post = async (expected, place, body, headers = {}) => {
        const answer = await fetch(url + place, { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body) });
        const text = await answer.text();
        if (answer.status !== expected) throw new Error(`${place}: ${answer.status} ${text}`);
    };
    const meta = (waba, field, value, ago) =>
        post(200, '/webhooks/meta', { object: 'whatsapp_business_account', entry: [{ id: waba, time: seconds() - ago, changes: [{ field, value }] }] });
    const eightByEight = (eventId, timestamp, number, event) => post(200, '/webhooks/8x8', {
        eventId, timestamp, provider: 'WhatsApp', businessAccountId: CAMPAIGNS, accountId: 'campaigns', eventType: 'phone_number_quality_update',
        eventDetails: { displayPhoneNumber: number, meta: event },
    }, { Authorization: TOKEN['8x8'] });
    let events = 0;
    const began = new Date().toISOString();
    return {
        meta: (waba, number, value, ago = 1) => meta(waba, 'phone_number_quality_update', { display_phone_number: number, ...value }, ago),
        account: (waba, field, value) => meta(waba, field, value, 1),
        rating: (number, event, qualityRating) => post(200, '/webhooks/nxcloud', { field: 'phone_number_quality_update', wabaId: CAMPAIGNS, displayPhoneNumber: number, event, qualityRating }),
        capability: (waba, value) => meta(waba, 'business_capability_update', value, 1),
        eightByEight: (number, event) => eightByEight(`event-${events += 1}`, new Date().toISOString(), number, event),
        kaleyra: async (number, event, limit) => {
            const answer = await fetch(`${url}/webhooks/kaleyra?display_phone_number=${number}&event=${event}&current_limit=${limit}`);
            if (answer.status !== 200) throw new Error(`kaleyra: ${answer.status} ${await answer.text()}`);
        },
        repetition: () => eightByEight('event-0', began, '447700900104', { event: 'ONBOARDING', currentLimit: 'TIER_100K' }),
        handshake: async () => {
            const answer = await fetch(`${url}/webhooks/meta?hub.mode=subscribe&hub.challenge=7&hub.verify_token=verify`);
            if (answer.status !== 200) throw new Error(`handshake: ${answer.status} ${await answer.text()}`);
        },
        scan: () => post(401, '/webhooks/8x8', {}, {}),
        broken: () => post(400, '/webhooks/meta', '{'),
    };
}

async function startExporter(folder, children) {
    const environment = { ...process.env, WHATSAPP_EXPORTER_8X8_TOKEN: TOKEN['8x8'], WHATSAPP_EXPORTER_META_VERIFY_TOKEN: 'verify' };
    const child = run(children, path.join(ROOT, 'target/release/whatsapp-quality-exporter'), [
        '--web.listen-address=127.0.0.1:0', '--webhook.listen-address=127.0.0.1:0', `--storage.path=${path.join(folder, 'data')}`, '--log.format=json',
        '--webhook.allow-unauthenticated=meta,innopaas,kaleyra,nxcloud',
    ], environment);
    let log = '';
    child.stderr.on('data', (text) => { log += text; });
    const addresses = () => [...log.matchAll(/listening.*?"address":"([^"]+)"/g)].map((found) => found[1]);
    await until('the exporter to listen', () => addresses().length === 2, () => log);
    const [web, webhooks] = addresses();
    return { web, webhooks: `http://${webhooks}` };
}

async function startPrometheus(folder, children, target) {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const file = path.join(folder, 'prometheus.yml');
    fs.writeFileSync(file, JSON.stringify({
        global: { scrape_interval: '1s', evaluation_interval: '1s' },
        rule_files: [path.join(ROOT, 'alerts/whatsapp.rules.yml')],
        scrape_configs: [{ job_name: 'whatsapp', static_configs: [{ targets: [target], labels: { instance: 'exporter-0' } }] }],
    }));
    const child = run(children, 'prometheus', [
        `--config.file=${file}`, `--storage.tsdb.path=${path.join(folder, 'prometheus')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn',
    ], process.env);
    let log = '';
    child.stderr.on('data', (text) => { log += text; });
    await until('Prometheus to be ready', async () => (await fetch(`${url}/-/ready`).catch(() => ({}))).ok, () => log);

    const value = async (query) => {
        const answer = await (await fetch(`${url}/api/v1/query?${new URLSearchParams({ query })}`)).json();
        if (answer.status !== 'success') throw new Error(`${query}: ${answer.error}`);
        return answer.data.result[0]?.value[1];
    };
    const scrapes = async () => Number(await value('count_over_time(up[1h])') ?? 0);
    await until('a first scrape', async () => await value('up') === '1', () => log);
    return {
        url,
        began: seconds(),
        until: (what, query) => until(what, async () => await value(query) !== undefined, () => log),
        scrapedAgain: async (times) => {
            const before = await scrapes();
            await until(`${times} more scrapes`, async () => await scrapes() >= before + times, () => log);
        },
    };
}

function run(children, program, args, env) {
    const child = spawn(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    child.on('error', (error) => { console.error(`${program}: ${error.message}: make setup`); });
    children.push(child);
    return child;
}

function end(child) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return undefined;
    return new Promise((ended) => { child.once('exit', ended); child.kill('SIGKILL'); });
}

async function until(what, condition, log) {
    const began = Date.now();
    while (!await condition()) {
        if (Date.now() - began > PATIENCE) throw new Error(`waited in vain for ${what}\n${log()}`);
        await pause(100);
    }
}

function freePort() {
    return new Promise((found, failed) => {
        const server = net.createServer().once('error', failed);
        server.listen(0, '127.0.0.1', () => { const { port } = server.address(); server.close(() => found(port)); });
    });
}

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });
const seconds = () => Math.floor(Date.now() / 1000);

module.exports = { start };
