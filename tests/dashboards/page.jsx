// Draws a dashboard with Grafana's own libraries: queries, field options, transformations and panels as Grafana has
// them, only the frame around it is ours.
//
// `require` and not `import`: the libraries' ES modules name files that are not in their packages.

const React = require('react');
const { createRoot } = require('react-dom/client');
const { lastValueFrom } = require('rxjs');
const data = require('@grafana/data');
const ui = require('@grafana/ui');
const { initPluginTranslations } = require('@grafana/i18n');

const theme = data.createTheme({ colors: { mode: 'dark' } });
const timeZone = 'utc';

// Grafana's grid: 24 columns, rows of 30 pixels, 8 between.
const WIDTH = 1600, ROW = 38, GAP = 8;

/** Draws the dashboard; answers, when all panels have their data, what went wrong in which panel. */
window.draw = async (dashboard, prometheus, from, to) => {
    await initPluginTranslations('grafana');
    const range = { from: data.dateTime(from * 1000), to: data.dateTime(to * 1000), raw: { from: 'now-1m', to: 'now' } };
    const source = new Source(prometheus, from, to);
    const marks = await source.marks(dashboard);
    const panels = await Promise.all(dashboard.panels.map(async (panel) => {
        try {
            return { panel, series: await series(panel, source, range) };
        } catch (error) {
            return { panel, series: [], error: `${error.message}` };
        }
    }));
    createRoot(document.getElementById('dashboard')).render(
        <data.ThemeContext.Provider value={theme}>
            <ui.GlobalStyles />
            <Dashboard dashboard={dashboard} panels={panels} range={range} marks={marks} />
        </data.ThemeContext.Provider>,
    );
    return panels.filter(({ error }) => error).map(({ panel, error }) => `${panel.title}: ${error}`);
};

function Dashboard({ dashboard, panels, range, marks }) {
    const bottom = Math.max(...panels.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
    return (
        <div style={{ position: 'relative', width: WIDTH + 2 * GAP, height: bottom * ROW + 48, background: theme.colors.background.canvas }}>
            <h1 style={{ fontSize: 18, padding: '12px 8px 0', margin: 0 }}>{dashboard.title}</h1>
            {panels.map((each) => <Panel key={each.panel.id} {...each} range={range} marks={marks} />)}
        </div>
    );
}

function Panel({ panel, series, error, range, marks }) {
    const { x, y, w, h } = panel.gridPos;
    const Kind = KINDS[panel.type];
    const place = { position: 'absolute', left: GAP + (x * WIDTH) / 24, top: 48 + y * ROW };
    const isEmpty = !series.some((frame) => frame.length > 0);
    return (
        <section data-panel={panel.title} style={place}>
            <Fence>
                <ui.PanelChrome title={panel.title} description={panel.description} width={(w * WIDTH) / 24 - GAP} height={h * ROW - GAP} statusMessage={error}>
                    {(width, height) => error ? null : isEmpty
                        ? <div data-testid="empty">No data</div>
                        : <Kind panel={panel} series={series} range={range} marks={marks} width={width} height={height} />}
                </ui.PanelChrome>
            </Fence>
        </section>
    );
}

/** An error of a panel stands in its place, where the test reads it. */
class Fence extends React.Component {
    static getDerivedStateFromError(error) { return { error }; }
    render() { return this.state?.error ? <div role="alert">An error: {this.state.error.stack}</div> : this.props.children; }
}

// ---- the kinds of panels

const KINDS = { stat: Stat, bargauge: Bars, table: Numbers, timeseries: Graph, 'state-timeline': Timeline };

function Stat({ panel, series, width, height }) {
    const { options } = panel;
    return <Values panel={panel} series={series} width={width} height={height} draw={(one) => (
        <ui.BigValue value={one.value.display} count={one.count} width={one.width} height={one.height} theme={theme}
            colorMode={options.colorMode} graphMode={options.graphMode} justifyMode={options.justifyMode} textMode={options.textMode} />
    )} />;
}

function Bars({ panel, series, width, height }) {
    const { options } = panel;
    return <Values panel={panel} series={series} width={width} height={height} draw={(one) => (
        <ui.BarGauge value={one.value.display} field={one.value.field} display={one.value.view?.getFieldDisplayProcessor(one.value.colIndex)}
            width={one.width} height={one.height} orientation={one.orientation} theme={theme} itemSpacing={8} alignmentFactors={one.alignmentFactors}
            displayMode={options.displayMode} showUnfilled={options.showUnfilled} valueDisplayMode={options.valueMode} namePlacement={options.namePlacement} isOverflow={false} />
    )} />;
}

/** What stat and bar gauge share: one picture for each reduced value. */
function Values({ panel, series, width, height, draw }) {
    const { options, fieldConfig } = panel;
    const getValues = () => data.getFieldDisplayValues({ fieldConfig, reduceOptions: options.reduceOptions, replaceVariables: (text) => text, theme, data: series, timeZone });
    return <ui.VizRepeater source={series} getValues={getValues} width={width} height={height} renderCounter={0} autoGrid orientation={options.orientation}
        minVizWidth={options.minVizWidth} minVizHeight={options.minVizHeight} itemSpacing={8} renderValue={draw}
        getAlignmentFactors={(values) => data.getDisplayValueAlignmentFactors(values)} />;
}

/** The table that @grafana/ui exports. Grafana's newer one takes a React of its own making (its grid needs React 19). */
function Numbers({ panel, series, width, height }) {
    const { showHeader, cellHeight, sortBy } = panel.options;
    return <ui.Table data={series[0]} width={width} height={height} initialSortBy={sortBy} noHeader={!showHeader} cellHeight={cellHeight} enableSharedCrosshair={false} />;
}

function Graph({ panel, series, range, marks, width, height }) {
    return <ui.TimeSeries frames={graphable(series)} timeRange={range} timeZone={timeZone} width={width} height={height} legend={panel.options.legend} options={panel.options}>
        {(config) => { config.addHook('draw', (plot) => drawMarks(plot, marks)); return null; }}
    </ui.TimeSeries>;
}

/** @grafana/ui has no state timeline (it is in Grafana itself): here it is made of its plot, its axes and its legend. */
function Timeline({ panel, series, range, width, height }) {
    const { frame, config, legend } = React.useMemo(() => {
        const frame = data.outerJoinDataFrames({ frames: series });
        const rows = frame.fields.slice(1);
        const config = new ui.UPlotConfigBuilder(timeZone);
        config.addScale({ scaleKey: 'x', isTime: true, orientation: 0, direction: 1, range: () => [range.from.valueOf(), range.to.valueOf()] });
        config.addScale({ scaleKey: 'y', orientation: 1, direction: -1, range: () => [0, rows.length] });
        config.addAxis({ scaleKey: 'x', isTime: true, placement: 'bottom', timeZone, theme, grid: { show: true } });
        config.addAxis({ scaleKey: 'y', placement: 'left', theme, grid: { show: false }, ticks: { show: false }, size: 150, gap: 5,
            splits: rows.map((_, index) => index + 0.5), values: () => rows.map((row) => data.getFieldDisplayName(row, frame, series)) });
        rows.forEach((_, index) => config.addSeries({ scaleKey: 'y', theme, show: true, drawStyle: 'line', lineWidth: 0, pathBuilder: () => null, showPoints: 'never', fieldIndex: { frameIndex: 0, fieldIndex: index + 1 } }));
        config.addHook('draw', (plot) => rows.forEach((row, index) => drawStates(plot, row, index, panel.options.rowHeight)));
        const states = new Map(rows.flatMap((row) => row.values.filter((value) => value != null).map((value) => { const { text, color } = row.display(value); return [text, color]; })));
        const legend = [...states].map(([label, color]) => ({ label, color, yAxis: 1 }));
        return { frame, config, legend };
    }, [series, range, panel]);
    const values = [frame.fields[0].values, ...frame.fields.slice(1).map((field) => field.values)];
    return (
        <ui.VizLayout width={width} height={height} legend={<ui.VizLayout.Legend placement="bottom"><ui.VizLegend items={legend} placement="bottom" displayMode="list" readonly /></ui.VizLayout.Legend>}>
            {(inner, high) => <ui.UPlotChart config={config} data={values} width={inner} height={high} />}
        </ui.VizLayout>
    );
}

function drawStates(plot, row, index, part) {
    const [times] = plot.data;
    const height = plot.valToPos(1, 'y', true) - plot.valToPos(0, 'y', true);
    const right = plot.bbox.left + plot.bbox.width;
    row.values.forEach((value, at) => {
        if (value == null) return;
        const left = plot.valToPos(times[at], 'x', true);
        const next = at + 1 < times.length ? plot.valToPos(times[at + 1], 'x', true) : right;
        plot.ctx.fillStyle = row.display(value).color;
        plot.ctx.fillRect(left, plot.valToPos(index, 'y', true) + (height * (1 - part)) / 2, Math.min(next, right) - left + 1, height * part);
    });
}

/** Annotations, as Grafana draws them: a dashed line, and a triangle below. */
function drawMarks(plot, marks) {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const { time, color } of marks) {
        const x = plot.valToPos(time, 'x', true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
        ctx.lineWidth = 2;
        ctx.setLineDash([5, 5]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(x - 5, bbox.top + bbox.height + 6);
        ctx.lineTo(x + 5, bbox.top + bbox.height + 6);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.fill();
    }
    ctx.restore();
}

/** A graph shows finite values only. */
function graphable(series) {
    const finite = (value) => (Number.isFinite(value) ? value : null);
    return series.map((frame) => ({ ...frame, fields: frame.fields.map((field) => (field.type === data.FieldType.number ? { ...field, values: field.values.map(finite) } : field)) }));
}

// ---- from queries to frames

/** The data of a panel: queried, transformed, with its field options, in Grafana's order. */
async function series(panel, source, range) {
    const answers = await Promise.all(panel.targets.map((target) => source.frames(target, panel.targets.length > 1)));
    const transformed = await lastValueFrom(data.transformDataFrame(panel.transformations ?? [], answers.flat()));
    return data.applyFieldOverrides({ data: transformed, fieldConfig: panel.fieldConfig, fieldConfigRegistry: registry(panel), replaceVariables: (text) => text, theme, timeZone });
}

data.standardTransformersRegistry.setInit(() => ['mergeTransformer', 'organizeFieldsTransformer'].map((name) => {
    const transformation = data.standardTransformers[name];
    return { id: transformation.id, name: transformation.name, transformation };
}));

/** The options of a field. Grafana's panels bring their own list; here it is what the panel sets, and what a graph needs. */
function registry(panel) {
    const standard = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'thresholds', 'mappings', 'color', 'links'];
    const ofGraphs = { drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, showPoints: 'auto', pointSize: 5, axisPlacement: 'auto', axisColorMode: 'text',
        scaleDistribution: { type: 'linear' }, stacking: { mode: 'none', group: 'A' }, thresholdsStyle: { mode: 'off' }, hideFrom: { legend: false, tooltip: false, viz: false }, spanNulls: false, insertNulls: false };
    const { defaults, overrides } = panel.fieldConfig;
    const overridden = overrides.flatMap(({ properties }) => properties.map(({ id }) => id)).filter((id) => id.startsWith('custom.'));
    const custom = new Set([...Object.keys(defaults.custom ?? {}), ...Object.keys(ofGraphs), ...overridden.map((id) => id.slice('custom.'.length))]);
    const option = (path, isCustom, defaultValue) => ({ id: isCustom ? `custom.${path}` : path, path, isCustom, name: path, defaultValue, process: data.identityOverrideProcessor, shouldApply: () => true });
    if (panel.type === 'timeseries') defaults.custom = { ...ofGraphs, ...defaults.custom };
    return new data.Registry(() => [...standard.map((path) => option(path, false)), ...[...custom].map((path) => option(path, true))]);
}

/** Grafana's Prometheus data source, in short. */
class Source {
    constructor(url, from, to) {
        Object.assign(this, { url, from, to, step: Math.max(1, Math.ceil((to - from) / 600)) });
    }

    async frames(target, isOneOfSome) {
        const expr = this.interpolated(target.expr);
        const result = target.instant ? await this.query('query', { query: expr, time: this.to }) : await this.range(expr, this.step);
        return target.format === 'table' ? [asTable(result, target, isOneOfSome)] : result.map((one) => asSeries(one, target, this.step));
    }

    /** The annotations of the dashboard. Grafana asks each 60 s at most; here all happens within one. */
    async marks(dashboard) {
        const queried = dashboard.annotations.list.filter(({ expr }) => expr);
        const each = await Promise.all(queried.map(async ({ expr, iconColor, useValueForTime }) => {
            const result = await this.range(this.interpolated(expr), 1);
            return result.flatMap(({ values }) => {
                const times = useValueForTime === 'on' ? values.map(([, value]) => Number(value)) : [values[0][0] * 1000];
                return [...new Set(times)].map((time) => ({ time, color: iconColor }));
            });
        }));
        return each.flat();
    }

    /** Each variable at "All". */
    interpolated(expr) {
        return expr.replaceAll('$__rate_interval', `${Math.max(4, this.step + 1)}s`).replace(/\$(\{)?(provider|waba_id|phone_number|job|instance)\b\}?/g, '.*');
    }

    range(query, step) {
        return this.query('query_range', { query, step, start: this.from, end: this.to });
    }

    async query(kind, parameters) {
        const answer = await (await fetch(`${this.url}/api/v1/${kind}?${new URLSearchParams(parameters)}`)).json();
        if (answer.status !== 'success') throw new Error(answer.error);
        return answer.data.result;
    }
}

const number = (text) => Number(text.replace('Inf', 'Infinity'));

function asSeries({ metric, values, value }, target, step) {
    const points = values ?? [value];
    const { __name__: name = '', ...labels } = metric;
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${text}"`).join(', ');
    const automatic = name || pairs ? `${name}{${pairs}}` : target.expr;
    const displayNameFromDS = target.legendFormat === '__auto' ? automatic : target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
    return data.toDataFrame({ refId: target.refId, name: displayNameFromDS, fields: [
        { name: 'Time', type: data.FieldType.time, values: points.map(([time]) => time * 1000), config: { interval: step * 1000 } },
        { name: 'Value', type: data.FieldType.number, labels, values: points.map(([, text]) => number(text)), config: { displayNameFromDS } },
    ] });
}

function asTable(result, target, isOneOfSome) {
    const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
    return data.toDataFrame({ refId: target.refId, fields: [
        { name: 'Time', type: data.FieldType.time, values: result.map(({ value: [time] }) => time * 1000) },
        ...labels.map((label) => ({ name: label, type: data.FieldType.string, config: { filterable: true }, values: result.map(({ metric }) => metric[label] ?? '') })),
        { name: isOneOfSome ? `Value #${target.refId}` : 'Value', type: data.FieldType.number, values: result.map(({ value: [, text] }) => number(text)) },
    ] });
}
