// A page with noVNC in a real Chromium, driven by lines on standard input, each answered by one line of JSON.
//
//   node console.mjs BASE_URL VM_ID TOKEN
//
//   shot FILE    write what the canvas shows, as PPM
//   type TEXT    press the keys of TEXT, then Enter
//   quit
//
// The page and noVNC's modules are put in place of what the API server would answer for /test/, so the page's origin is
// the server's own.

import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { chromium } from 'playwright-core';

const [base, vm, token] = process.argv.slice(2);
const novnc = path.dirname(path.dirname(createRequire(import.meta.url).resolve('@novnc/novnc')));
const page = `<!doctype html><meta charset=utf-8><title>console</title>
<body style="margin:0"><div id=screen style="width:1024px;height:768px"></div>
<script type=module>
import RFB from '/test/novnc/core/rfb.js';
const url = new URL('/ws/vnc?id=${vm}&token=${token}', location);
url.protocol = 'ws:';
const rfb = new RFB(document.getElementById('screen'), url.href, { wsProtocols: ['binary'] });
rfb.scaleViewport = false;
window.state = 'connecting';
rfb.addEventListener('connect', () => { window.state = 'connected'; rfb.focus(); });
rfb.addEventListener('disconnect', (event) => { window.state = event.detail.clean ? 'closed' : 'broken'; });
</script>`;

const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
        '--disable-sync', '--no-first-run', '--no-proxy-server'],
});
const say = (answer) => console.log(JSON.stringify(answer));

try {
    // A page that was put in place counts as one from the internet, which may not reach this machine unasked.
    const context = await browser.newContext({ permissions: ['local-network-access'] });
    const tab = await context.newPage();
    const problems = [];
    tab.on('pageerror', (error) => problems.push(String(error)));
    tab.on('console', (message) => problems.push(message.text().replaceAll(token, '…')));
    await tab.route('**/test/**', async (route) => {
        const { pathname } = new URL(route.request().url());
        if (pathname === '/test/') {
            return route.fulfill({ contentType: 'text/html', body: page });
        }
        const file = path.join(novnc, path.normalize(pathname.replace('/test/novnc', '/')));
        return route.fulfill({ contentType: 'text/javascript', body: await readFile(file) });
    });
    await tab.goto(`${base}/test/`);
    await tab.waitForFunction(() => window.state && window.state !== 'connecting', null, { timeout: 30_000 });
    say({ state: await tab.evaluate(() => window.state), problems });

    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [, command, rest] = /^(\w+) ?(.*)$/.exec(line);
        if (command === 'quit') {
            break;
        } else if (command === 'type') {
            await tab.keyboard.type(rest, { delay: 50 });
            await tab.keyboard.press('Enter');
            say({ typed: rest });
        } else if (command === 'shot') {
            const { width, height, data } = await tab.evaluate(() => {
                const canvas = document.querySelector('#screen canvas');
                const { width, height } = canvas;
                const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
                let text = '';
                for (let i = 0; i < data.length; i += 4) {
                    text += String.fromCharCode(data[i], data[i + 1], data[i + 2]);
                }
                return { width, height, data: btoa(text) };
            });
            const head = Buffer.from(`P6\n${width} ${height}\n255\n`);
            await writeFile(rest, Buffer.concat([head, Buffer.from(data, 'base64')]));
            say({ state: await tab.evaluate(() => window.state), width, height });
        }
    }
} finally {
    await browser.close();
}
