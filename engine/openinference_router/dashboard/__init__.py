"""The dashboard: a page about one namespace, served by its router, that reads and never writes.

    pages      the page's files and its two streams of data, with the headers that fence them in
    overview   what the page shows now: the router's own state beside what the cluster says
    cluster    InferenceServices and Events, watched only while somebody looks
    history    the last hour, from Prometheus or from what this router saw itself

The browser runs plain modules from `static/`: no build step, nothing from elsewhere. Charts are
SVG of our own (`static/chart.js`): uPlot, the smallest kept library, is several times their size,
draws on a canvas that screen readers cannot see, and comes through no Python package.
"""
