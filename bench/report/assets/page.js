'use strict';
(() => {
  // A candidate has the same colour everywhere: wgjail's are strong, those
  // without a forwarder grey, the peers soft.
  const colours = {
    light: {
      generator: '#c3c9d2', direct: '#a4acb9', native: '#848e9c',
      relay: '#2563eb', 'relay-source': '#0ea5c6', veth: '#15955a',
      dnat: '#8fbf6f', haproxy: '#e08a3c', 'socket-proxyd': '#c66fb4', socat: '#d9b13b', pasta: '#d0645f',
      userspace: '#2563eb', kernel: '#15955a',
    },
    dark: {
      generator: '#4a5260', direct: '#697282', native: '#8c96a6',
      relay: '#5b8dff', 'relay-source': '#35c3e0', veth: '#3ecf8e',
      dnat: '#86b268', haproxy: '#e79a55', 'socket-proxyd': '#cf86c1', socat: '#dcbc5b', pasta: '#dd7d78',
      userspace: '#5b8dff', kernel: '#3ecf8e',
    },
  };
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const colour = name => colours[dark.matches ? 'dark' : 'light'][name] || '#888888';
  const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Three digits, as in the tables.
  const three = v => String(+v.toPrecision(3));
  const number = v => {
    const a = Math.abs(v);
    if (a >= 1e6) return three(v / 1e6) + ' M';
    if (a >= 1e4) return three(v / 1e3) + ' k';
    return three(v);
  };

  // Whiskers from the least to the greatest, and the figure beside the bar.
  const marks = {
    id: 'marks',
    afterDatasetsDraw(chart, _, options) {
      const { ctx, scales: { x } } = chart;
      const metas = chart.getSortedVisibleDatasetMetas();
      ctx.save();
      options.bars.forEach((bar, i) => {
        const y = metas[metas.length - 1].data[i].y;
        let end = x.getPixelForValue(bar.parts.reduce((a, b) => a + b, 0));
        if (options.whiskers && bar.max > bar.min) {
          const from = x.getPixelForValue(bar.min), to = x.getPixelForValue(bar.max);
          ctx.strokeStyle = variable('--text');
          ctx.lineWidth = 1.25;
          ctx.beginPath();
          ctx.moveTo(from, y); ctx.lineTo(to, y);
          ctx.moveTo(from, y - 4); ctx.lineTo(from, y + 4);
          ctx.moveTo(to, y - 4); ctx.lineTo(to, y + 4);
          ctx.stroke();
          end = Math.max(end, to);
        }
        ctx.fillStyle = variable('--soft');
        ctx.font = '12px system-ui, sans-serif';
        ctx.textBaseline = 'middle';
        ctx.fillText(number(bar.parts.reduce((a, b) => a + b, 0)), end + 6, y);
      });
      ctx.restore();
    },
  };

  const axis = (title, more) => ({
    title: { display: !!title, text: title, color: variable('--soft') },
    ticks: { color: variable('--soft'), ...(more || {}).ticks },
    grid: { color: variable('--line') },
    border: { color: variable('--line') },
    ...(more || {}).scale,
  });

  const barChart = c => {
    const stack = c.kind === 'stack';
    const parts = stack ? ['user', 'system'] : [''];
    // Room for the figures beside the longest bar.
    const longest = Math.max(...c.bars.map(b => Math.max(b.parts.reduce((a, v) => a + v, 0), stack ? 0 : b.max)));
    // Where one bar would leave nothing of the others, each step is ten times the last.
    const shortest = Math.min(...c.bars.map(b => b.parts[0]));
    const logarithmic = !stack && shortest > 0 && longest > 50 * shortest;
    const scale = logarithmic
      ? { type: 'logarithmic', min: 10 ** Math.floor(Math.log10(shortest) - 0.3), suggestedMax: longest * 4 }
      : { beginAtZero: true, suggestedMax: longest * 1.16 };
    return {
      type: 'bar',
      data: {
        labels: c.bars.map(b => b.candidate),
        datasets: parts.map((label, k) => ({
          label,
          data: c.bars.map(b => b.parts[k]),
          backgroundColor: c.bars.map(b => colour(b.candidate) + (stack && k === 0 ? '88' : '')),
          borderRadius: 3, stack: stack ? 'one' : undefined, maxBarThickness: 20, categoryPercentage: 0.82,
        })),
      },
      options: {
        indexAxis: 'y',
        scales: {
          x: axis(c.unit + (logarithmic ? ', logarithmic' : ''), { ticks: { callback: number, maxTicksLimit: 6 }, scale: { stacked: stack, ...scale } }),
          y: { ...axis('', { ticks: { color: variable('--text'), autoSkip: false } }), stacked: stack, grid: { display: false } },
        },
        plugins: {
          legend: { display: false },
          tooltip: { callbacks: { label: t => `${t.dataset.label} ${number(t.raw)} ${c.unit}` } },
          marks: { bars: c.bars, whiskers: !stack },
        },
      },
      plugins: [marks],
    };
  };

  // The percentile axis stretches the tail: as far from 90 to 99 as to 99.9.
  const tail = p => -Math.log10(1 - p / 100);
  const curveChart = c => ({
    type: 'line',
    data: {
      datasets: c.lines.map(l => ({
        label: l.candidate,
        data: l.points.map(p => ({ x: tail(p.percentile), y: p.us })),
        borderColor: colour(l.candidate), backgroundColor: colour(l.candidate),
        borderWidth: 2, pointRadius: 0, pointHitRadius: 8, cubicInterpolationMode: 'monotone',
      })),
    },
    options: {
      interaction: { mode: 'nearest', intersect: false },
      scales: {
        x: {
          ...axis('percentile'), type: 'linear', min: 0, max: 4,
          afterBuildTicks: a => { a.ticks = [0, tail(50), 1, 2, 3, 4].map(value => ({ value })); },
          ticks: { color: variable('--soft'), callback: v => +(100 - 100 * Math.pow(10, -v)).toFixed(2) },
        },
        y: axis(c.unit, { ticks: { callback: number, maxTicksLimit: 7 }, scale: { type: 'logarithmic' } }),
      },
      plugins: {
        legend: { display: false },
        tooltip: { callbacks: {
          title: () => '',
          label: t => `${t.dataset.label}: ${+(100 - 100 * Math.pow(10, -t.parsed.x)).toFixed(2)} % within ${number(t.parsed.y)} µs`,
        } },
      },
    },
  });

  let drawn = [];
  const draw = () => {
    drawn.forEach(c => c.destroy());
    document.querySelectorAll('i[data-candidate]').forEach(i => { i.style.background = colour(i.dataset.candidate); });
    drawn = [...document.querySelectorAll('figure')].map(f => {
      const c = JSON.parse(f.querySelector('script').textContent);
      if (c.bars) f.querySelector('.canvas').style.height = `${58 + 26 * c.bars.length}px`;
      const config = c.kind === 'curves' ? curveChart(c) : barChart(c);
      config.options = { animation: false, responsive: true, maintainAspectRatio: false, ...config.options };
      return new Chart(f.querySelector('canvas'), config);
    });
  };
  dark.addEventListener('change', draw);
  draw();
})();
